#!/usr/bin/env bash
# The main job on the embedded corpus, for three seeds: train small, grow, train on, and compare with
# a model of the large size trained from scratch for as many epochs in all. About a minute on two cores.
set -euo pipefail
out=${1:-demo}
mkdir -p "$out" && cd "$out"
rm -f counting.st {small,start,grown,scratch}[0-2].* curves.png table.txt
train() { xtool train counting.st --batch-size 64 --lr 3e-3 --threads 1 --quiet "$@"; }

xtool prepare counting -o counting.st

one_seed() {
    train --d-model 32 --epochs 3 --seed "$1" --label small -o "small$1.st"
    xtool grow "small$1.st" --to 64 --seed "$1" -o "start$1.st"
    train --from "start$1.st" --epochs 3 --seed "$1" --label grown -o "grown$1.st"
    echo "seed $1: small trained, grown and trained on; now from scratch" >&2
    train --d-model 64 --epochs 6 --seed "$1" --label scratch -o "scratch$1.st"
}
for seed in 0 1 2; do one_seed "$seed" > /dev/null & jobs+=($!); done
for job in "${jobs[@]}"; do wait "$job"; done

xtool sample grown0.st --examples 2
xtool inspect grown0.st | sed -n '/^lineage/,/^$/p'
cat small?.rows.jsonl grown?.rows.jsonl scratch?.rows.jsonl |
    xtool plot - --kind curves --x lineage_flops --where split=dev --title "letter counting, three seeds" -o curves.png
xtool evaluate small?.st grown?.st scratch?.st --over seed --where metric=accuracy --format table |
    tee table.txt
echo "pictures: $out/curves.png"
