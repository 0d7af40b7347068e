#!/usr/bin/env bash
# The growth experiment: at each width a model from scratch, models grown from a trained one of a
# part of the width (half), and controls grown from an untrained one, which show what a construction alone is worth.
#   examples/growth.sh [OUT]           widths 48, 96, 192, ten seeds: some hours on two cores
#   examples/growth.sh --full [OUT]    widths 384 and 768 too
#   examples/growth.sh --fast [OUT]    one width, two seeds, little data: a minute
# Started again on the same OUT it goes on where it stopped. WIDTHS, SEEDS, KINDS, CONTROLS, RATIO (of the
# widths), BATCH, LR, BEFORE, AFTER (epochs), NETWORK, DATA and JOBS change what is run.
set -euo pipefail
mode=${1:-}
case $mode in --fast | --full) shift ;; *) mode= ;; esac
mkdir -p "${1:-growth}" && cd "${1:-growth}"

widths=${WIDTHS:-48 96 192} seeds=${SEEDS:-0 1 2 3 4 5 6 7 8 9}
kinds=${KINDS:-pad clone identity identity-qkv double random} controls=${CONTROLS:-pad identity-qkv}
ratio=${RATIO:-2} batch=${BATCH:-16} lr=${LR:-1e-4} before=${BEFORE:-5} after=${AFTER:-5} jobs=${JOBS:-2}
network=${NETWORK:---preset counting} data=${DATA:-}
if [ "$mode" = --full ]; then widths="$widths 384 768"; fi
if [ "$mode" = --fast ]; then
    widths=16 seeds="0 1" kinds="pad random" controls=pad before=1 after=1
    network="--n-heads 1" data="--train-size 300 --dev-size 50 --test-size 50"
fi
read -ra network <<< "$network"
read -ra data <<< "$data"
[ -e data.st ] || xtool prepare counting "${data[@]}" -o data.st

train() { xtool train data.st --batch-size "$batch" --lr "$lr" --seed "$seed" --threads 1 --quiet --force "$@"; }

# Every grown model trains until its lineage has cost as many FLOPs as the model from scratch.
one_seed() {
    local width=$1 seed=$2 run=$1-$2 budget
    [ ! -e "done-$run" ] || return 0
    train "${network[@]}" --d-model $((width / ratio)) --epochs "$before" --label small -o "small-$run.st"
    train "${network[@]}" --d-model $((width / ratio)) --steps 0 --label untrained -o "untrained-$run.st"
    train "${network[@]}" --d-model "$width" --epochs $((before + after)) --label scratch -o "scratch-$run.st"
    budget=$(xtool evaluate "scratch-$run.st" --where metric=loss --format jsonl | grep -o '"lineage_flops": [0-9]*' | cut -d' ' -f2)
    for kind in $kinds; do go_on "small-$run.st" "$kind" "$kind" "grown-$kind-$run"; done
    for kind in $controls; do go_on "untrained-$run.st" "$kind" "untrained $kind" "control-$kind-$run"; done
    touch "done-$run"
}

go_on() {
    xtool grow "$1" --to "$width" --method "$2" --seed "$seed" --quiet --force -o "start-$4.st"
    train --from "start-$4.st" --epochs $((2 * (before + after))) --max-flops "$budget" --label "$3" -o "$4.st"
    rm "start-$4.st"
}

for width in $widths; do
    for seed in $seeds; do
        while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
        one_seed "$width" "$seed" > /dev/null &
    done
done
wait

accuracy() { xtool evaluate "$@" --where metric=accuracy --where split=dev --over seed --format markdown; }
for width in $widths; do
    printf '\nd_model %s, %s epochs in all\n\n' "$width" $((before + after))
    accuracy {grown-*,scratch}-"$width"-*.rows.jsonl --where lineage_epoch=$((before + after))
    printf '\nd_model %s, %s epochs since growth\n\n' "$width" "$after"
    accuracy {grown,control}-*-"$width"-*.rows.jsonl --where epoch="$after"
    printf '\nd_model %s, equal training FLOPs, against scratch\n\n' "$width"
    accuracy {small,grown-*,control-*,scratch}-"$width"-*.st --against scratch
    xtool plot {small,grown-*,scratch}-"$width"-*.rows.jsonl --kind curves --x lineage_flops \
        --where split=dev --title "d_model $width" --force -o "curves-$width.png" > /dev/null
done | tee table.md
