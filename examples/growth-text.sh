#!/usr/bin/env bash
# Does growing pay on a character language model? How many training FLOPs, the small model's included,
# does a grown model need to reach the loss of a model of its size from scratch?
#
#   examples/growth-text.sh [OUT]           three seeds: about an hour on two cores
#   examples/growth-text.sh --fast [OUT]    two seeds, few steps: a minute
#
# A small model of half the width spends a FIRST part of what scratch spends in all; then it grows, and trains
# until the lineage has cost one of SHARES of scratch, with a falling rate of its own for each. The controls spend the
# CONTROL share alone: a model from scratch, and an untrained small model that grew, which trains once with scratch's
# rate and once with the grown model's. The small model also goes on to each of SHARES with the grown model's rate, but
# does not grow. CORPUS is a corpus or a text file.
# Rates were chosen on a seed of their own, scratch's among 1e-3, 2e-3, 3e-3, 4e-3, 6e-3 and 1e-2.
set -euo pipefail
source "$(dirname "$0")/_run.sh"
seeds=${SEEDS:-0 1 2} lr=${LR:-4e-3} shares=${SHARES:-0.5 0.6} first=${FIRST:-0.4} kinds=${KINDS:-pad clone} control=${CONTROL:-0.6}
corpus=${CORPUS:-builtin} steps=${STEPS:-1500} width=${WIDTH:-128} jobs=${JOBS:-2} warmup=100
shape=(--n-layers 4 --n-heads 4 --context 64)
if [ "${1:-}" = --fast ]; then
    shift
    seeds="0 1" shares="0.6" steps=30 width=32 kinds=pad warmup=5 shape=(--n-layers 2 --n-heads 2 --context 32)
fi
falling=(--lr 2e-3 --warmup $((warmup / 4)) --schedule linear)
corpus=$(corpus "$corpus")
mkdir -p "${1:-growth-text}" && cd "${1:-growth-text}"
[ -e text.st ] || xtool prepare language "$corpus" -o text.st > /dev/null

train() { xtool train text.st --batch-size 12 --clip 1 --weight-decay 0.1 --eval-every "$((steps / 15))" --threads 1 --seed "$seed" --quiet --force "$@"; }
share() { awk -v all="$all" -v part="$1" 'BEGIN { printf "%.0f", all * part }'; }

# fresh NAME LABEL WIDTH ...
fresh() { [ -e "$1-$seed.st" ] || train "${shape[@]}" --d-model "$3" --label "$2" -o "$1-$seed.st" "${@:4}"; }
# grown NAME LABEL SMALL KIND SHARE ...
grown() {
    [ ! -e "$1-$seed.st" ] || return 0
    xtool grow "$3-$seed.st" --to "$width" --method "$4" --seed "$seed" --quiet --force -o "start-$1-$seed.st"
    train --from "start-$1-$seed.st" --steps $((9 * steps)) --max-flops "$(share "$5")" --label "$2" -o "$1-$seed.st" "${@:6}"
    rm "start-$1-$seed.st"
}
one_seed() {
    local seed=$1 all kind part
    fresh scratch scratch "$width" --lr "$lr" --warmup $warmup --steps "$steps"
    all=$(flops "scratch-$seed.rows.jsonl")
    fresh small "small, $first" $((width / 2)) --lr 3e-3 --warmup $warmup --schedule constant --steps $((9 * steps)) --max-flops "$(share "$first")"
    for kind in $kinds; do
        for part in $shares; do
            grown "grown-$kind-$part" "$kind, $part" small "$kind" "$part" "${falling[@]}"
        done
    done
    for part in $shares; do
        [ -e "small-on-$part-$seed.st" ] || train --from "small-$seed.st" --steps $((9 * steps)) --max-flops "$(share "$part")" --label "small, $part" -o "small-on-$part-$seed.st" "${falling[@]}"
    done
    fresh control-scratch "scratch, $control" "$width" --lr "$lr" --warmup $warmup --steps $((9 * steps)) --max-flops "$(share "$control")"
    fresh untrained untrained $((width / 2)) --steps 0
    kind=${kinds%% *}
    grown control-untrained "untrained $kind, $control" untrained "$kind" "$control" --lr "$lr" --warmup $warmup
    grown control-untrained-falling "untrained $kind, $control, as grown" untrained "$kind" "$control" "${falling[@]}"
}
for seed in $seeds; do beside "seed $seed" one_seed "$seed"; done
finish

xtool evaluate {small-,grown-,control-,scratch-}*.st --split dev --where metric=loss --over seed --against scratch --format jsonl > flops.jsonl
xtool evaluate flops.jsonl --format markdown | tee tables.md
xtool plot {small-,scratch-,grown-,control-}*.rows.jsonl --kind curves --x lineage_flops --y loss --where split=dev --force -o by-flops.png > /dev/null
xtool plot flops.jsonl --kind bars --y loss_difference --title "dev loss against scratch" --force -o difference.png > /dev/null
