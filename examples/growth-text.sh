#!/usr/bin/env bash
# Does growing pay on a character language model? How many training FLOPs, the small model's included,
# does a grown model need to reach the loss of a model of its size from scratch?
#
#   examples/growth-text.sh [OUT]           three seeds: about an hour on two cores
#   examples/growth-text.sh --fast [OUT]    two seeds, few steps: a minute
#
# A small model of half the width spends a FIRST part of what scratch spends in all; then it grows, and trains
# until the lineage has cost a SHARE of scratch, with a cosine schedule of its own for each share. The control is
# an untrained small model that grew and trained with the whole share. CORPUS is a corpus or a text file.
set -euo pipefail
seeds=${SEEDS:-0 1 2} shares=${SHARES:-0.4 0.5 0.6 0.8 1.0} first=${FIRST:-0.2} kinds=${KINDS:-pad clone}
corpus=${CORPUS:-builtin} steps=${STEPS:-1500} width=${WIDTH:-128} jobs=${JOBS:-2} control=${CONTROL:-0.6}
shape=(--n-layers 4 --n-heads 4 --context 64)
if [ "${1:-}" = --fast ]; then
    shift
    seeds="0 1" shares="0.6" steps=30 width=32 kinds=pad shape=(--n-layers 2 --n-heads 2 --context 32)
fi
mkdir -p "${1:-growth-text}" && cd "${1:-growth-text}"
[ -e text.st ] || xtool prepare language "$corpus" -o text.st > /dev/null

train() { xtool train text.st --batch-size 12 --lr 1e-3 --clip 1 --weight-decay 0.1 --eval-every "$((steps / 15))" --threads 1 --seed "$seed" --quiet --force "$@"; }
flops() { xtool evaluate "$1.rows.jsonl" --where metric=train_seconds --format jsonl | grep -om1 '"lineage_flops": [0-9]*' | cut -d' ' -f2; }
share() { awk -v all="$1" -v part="$2" 'BEGIN { printf "%.0f", all * part }'; }

one_seed() {
    local seed=$1 all kind part
    [ -e "scratch-$seed.st" ] || train "${shape[@]}" --d-model "$width" --warmup 100 --steps "$steps" --label scratch -o "scratch-$seed.st"
    all=$(flops "scratch-$seed")
    [ -e "small-$seed.st" ] || train "${shape[@]}" --d-model $((width / 2)) --warmup 100 --schedule constant --steps $((9 * steps)) \
        --max-flops "$(share "$all" "$first")" --label small -o "small-$seed.st"
    [ -e "untrained-$seed.st" ] || train "${shape[@]}" --d-model $((width / 2)) --steps 0 --label untrained -o "untrained-$seed.st"
    for kind in $kinds; do
        for part in $shares; do go_on "small-$seed" "$kind" "$part" "$kind, $part of scratch" "grown-$kind-$part-$seed"; done
    done
    go_on "untrained-$seed" "${kinds%% *}" "$control" "untrained ${kinds%% *}, $control of scratch" "control-$seed"
}
# go_on SMALL KIND SHARE LABEL NAME
go_on() {
    [ ! -e "$5.st" ] || return 0
    xtool grow "$1.st" --to "$width" --method "$2" --seed "$seed" --quiet --force -o "start-$5.st"
    train --from "start-$5.st" --schedule cosine --warmup 50 --steps $((9 * steps)) --max-flops "$(share "$all" "$3")" --label "$4" -o "$5.st"
    rm "start-$5.st"
}
for seed in $seeds; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    one_seed "$seed" > /dev/null &
done
wait

xtool evaluate {small,grown,control,scratch}-*.st --split dev --where metric=loss --over seed --against scratch --format jsonl > flops.jsonl
xtool evaluate flops.jsonl --format markdown | tee tables.md
xtool plot {small,scratch,grown,control}-*.rows.jsonl --kind curves --x lineage_flops --y loss --where split=dev --force -o by-flops.png > /dev/null
xtool plot flops.jsonl --kind bars --y loss_difference --title "dev loss against scratch" --force -o difference.png > /dev/null
