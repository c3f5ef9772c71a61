#!/usr/bin/env bash
# The arms of IMDN x4 with fp32 and with bf16: docs/results/tuning.md. Run it where datasets/README.md put images, priors and
# weights; a second run goes on.
#   [ITERATIONS=3000] [SEED=0] [ARMS="Plain Modulation Region ladder"] scripts/precision_arms.sh [fp32] [bf16]
set -euo pipefail
iterations=${ITERATIONS:-3000}
seed=${SEED:-0}
here=$(cd "$(dirname "$0")/.." && pwd)
[ $# -gt 0 ] || set -- fp32 bf16
for precision in "$@"; do
    for arm in ${ARMS:-Plain Modulation Region ladder}; do
        name=${arm}_IMDN_x4_$precision
        [ "$seed" = 0 ] || name=${name}_seed$seed
        unit=("network_g:unit:type=${arm}Unit")
        [ "$arm" != ladder ] || unit=(network_g:unit:type=ModulationUnit network_g:unit:path=ladder)
        sptsr train -opt "$here/options/train/SPT_IMDN_x4_BSDS400.yml" --force_yml "name=$name" "${unit[@]}" \
            "manual_seed=$seed" "train:precision=$precision" "train:total_iter=$iterations" "train:scheduler:periods=[$iterations]" logger:use_tb_logger=false
        sptsr test -opt "$here/options/test/SPT_IMDN_x4.yml" --force_yml "name=$name" "${unit[@]}" \
            "path:pretrain_network_g=experiments/$name/models/net_g_latest.safetensors"
    done
done
