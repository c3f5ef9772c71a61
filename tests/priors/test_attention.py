import torch
from segment_anything.modeling.image_encoder import ImageEncoderViT

from sptsr.priors.sources.attention import attention_by_heads


def _encoder() -> ImageEncoderViT:
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=64, patch_size=4, embed_dim=32, depth=4, num_heads=4, out_chans=8, window_size=5, use_rel_pos=True,
        global_attn_indexes=(1, 3),
    )  # fmt: skip
    for name, value in encoder.named_parameters():
        if 'rel_pos' in name or 'pos_embed' in name:
            torch.nn.init.normal_(value)
    return encoder.eval()


@torch.no_grad()
def test_head_by_head_gives_the_same_features():
    encoder = _encoder()
    for batch in (1, 3):
        images = torch.rand(batch, 3, 64, 64)
        expected = encoder(images)
        with attention_by_heads(encoder):
            found = encoder(images)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(encoder(images), expected)  # and afterwards it is what it was


@torch.no_grad()
def test_scores_of_one_head_are_there_at_a_time():
    encoder = _encoder()
    largest = {}

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest[key] = max(largest.get(key, 0), result.numel())
            return result

    for key in ('at once', 'by heads'):
        images = torch.rand(1, 3, 64, 64)
        with Watch():
            if key == 'at once':
                encoder(images)
            else:
                with attention_by_heads(encoder):
                    encoder(images)
    assert largest['at once'] == 4 * 256**2
    assert largest['by heads'] == 256**2
