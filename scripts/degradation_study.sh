#!/usr/bin/env bash
# How much of a prior survives degradation: docs/results/degradation.md. Run it in a folder with datasets/BSDS500.
#   [INCLUDE="val/101*"] scripts/degradation_study.sh OUT [source arguments of `sptsr prior extract`, felzenszwalb by default]
set -euo pipefail
out=$1
shift
source=("$@")
[ ${#source[@]} -gt 0 ] || source=(--source felzenszwalb)
read -ra include <<<"${INCLUDE:-val/1* val/2[0-3]* val/2[67]*}"  # 50 images
images=(-i datasets/BSDS500/images --include "${include[@]}")

extract() { sptsr prior extract -i "$1" -o "$out/$2" "${source[@]}" "${@:3}"; }

extract datasets/BSDS500/images clean "${images[@]:2}"
for step in 'noise 15' 'noise 25' 'noise 50' 'blur 1' 'blur 2' 'jpeg 40' 'jpeg 10' 'downsample 2' 'downsample 4'; do
    read -r kind amount <<<"$step"
    sptsr prior degrade "${images[@]}" -o "$out/images/$kind$amount" "--$kind" "$amount"
    extract "$out/images/$kind$amount" "$kind$amount"
done
sptsr prior extract "${images[@]}" -o "$out/human" --source labels --set dir=datasets/BSDS500/segmentations
# what chance gives: random regions, and the priors of other images
sptsr prior extract "${images[@]}" -o "$out/random" --source random --set like="$out/clean"
[ -d "$out/shuffled" ] || sptsr prior shuffle "$out/clean" -o "$out/shuffled"
stores=()
for name in clean noise15 noise25 noise50 blur1 blur2 jpeg40 jpeg10 downsample2 downsample4 random shuffled; do stores+=("$out/$name"); done
sptsr prior compare "$out/clean" "${stores[@]:1}" -o "$out/of_clean" "${images[@]}"
sptsr prior compare "$out/human" "${stores[@]}" -o "$out/of_human" "${images[@]}"
