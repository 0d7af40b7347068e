#!/usr/bin/env bash
# Do a small and a large model share their spectrum, and is the small one a projection of the large?
#
#   examples/spectra.sh [OUT]           three seeds: some minutes on two cores
#   examples/spectra.sh --fast [OUT]    two seeds, little data: a minute
#
# For each seed a small model is saved after 0, 1, 2, 5 and 10 epochs of letter counting, and compared
# with the large one of the same seed: its spectra (distance 0 is the same shape) and its activations
# (linear CKA, 1 is the same up to rotation and scale). Beside them stand the controls: a large model
# of another seed, an untrained large and small one, and the small one grown, before and after training.
set -euo pipefail
source "$(dirname "$0")/_run.sh"
epochs=(1 1 3 5) seeds=${SEEDS:-0 1 2} jobs=${JOBS:-2} data=()
if [ "${1:-}" = --fast ]; then
    shift
    epochs=(1 1) seeds="0 1" data=(--train-size 300 --dev-size 50 --test-size 50)
fi
mkdir -p "${1:-spectra}" && cd "${1:-spectra}"
[ -e data.st ] || xtool prepare counting "${data[@]}" -o data.st > /dev/null
train() { xtool train data.st --batch-size 64 --lr 3e-3 --threads 1 --quiet --force "$@"; }

one_seed() {
    local place=seed$1 before=0 at epoch
    mkdir -p "$place"
    train --seed "$1" --d-model 32 --steps 0 -o "$place/small-0.st"
    for epoch in "${epochs[@]}"; do
        at=$((before + epoch))
        train --seed "$1" --from "$place/small-$before.st" --epochs "$epoch" -o "$place/small-$at.st"
        before=$at
    done
    train --seed "$1" --d-model 64 --epochs "$before" -o "$place/large.st"
    train --seed "$(($1 + 100))" --d-model 64 --epochs "$before" -o "$place/large-other-seed.st"
    train --seed "$(($1 + 200))" --d-model 64 --steps 0 -o "$place/large-untrained.st"
    train --seed "$(($1 + 200))" --d-model 32 --steps 0 -o "$place/small-untrained.st"
    xtool grow "$place/small-$before.st" --to 64 --method spectral --seed "$1" --quiet --force -o "$place/grown-spectral.st"
    xtool grow "$place/small-$before.st" --to 64 --seed "$1" --quiet --force -o "$place/grown.st"
    train --seed "$1" --from "$place/grown.st" --epochs "$before" -o "$place/grown-trained.st"
    xtool inspect --spectrum "$place"/{large,large-other-seed,large-untrained,small-untrained,small-*[0-9],grown,grown-spectral,grown-trained}.st --format jsonl > "$place.spectrum.jsonl"
    xtool inspect --similarity "$place"/{large,large-other-seed,large-untrained,small-untrained,small-*[0-9],grown,grown-spectral,grown-trained}.st --data data.st --format jsonl > "$place.similarity.jsonl"
}
for seed in $seeds; do beside "seed $seed" one_seed "$seed"; done
finish

cat seed*[0-9].spectrum.jsonl > spectrum.jsonl
cat seed*[0-9].similarity.jsonl > similarity.jsonl
xtool evaluate spectrum.jsonl --where metric=spectrum_distance --pivot label tensor --format markdown | tee tables.md
xtool evaluate similarity.jsonl --where metric=cka --pivot label layer --format markdown | tee -a tables.md
xtool plot "seed${seeds%% *}.spectrum.jsonl" --kind spectrum --y singular_value --force -o spectra.png > /dev/null
