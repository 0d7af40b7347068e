#!/usr/bin/env bash
# What is a nested model worth? Each of its sizes beside a twin trained alone, at equal steps and at equal FLOPs, beside
# other schedules, and beside the plain cut of a model with no nested size; then what its small sizes know.
#
#   examples/matryoshka.sh [OUT]          three seeds of 1,500 steps: half an hour on two cores
#   examples/matryoshka.sh --fast [OUT]   two seeds, tiny, few steps: two minutes
#
# QUESTIONS chooses questions, CORPUS a corpus or a text file; SEEDS, STEPS, WIDTH and JOBS are what they say.
set -euo pipefail
source "$(dirname "$0")/_run.sh"
seeds=${SEEDS:-0 1 2} steps=${STEPS:-1500} jobs=${JOBS:-2} width=${WIDTH:-64} corpus=${CORPUS:-builtin}
questions=${QUESTIONS:-twins flops schedules hierarchy emergent}
here=$(realpath "$(dirname "$0")")
layers=4 some=()
if [ "${1:-}" = --fast ]; then
    shift
    seeds="0 1" steps=8 layers=1 questions="twins hierarchy" some=(--dev-fraction 0.01)
fi
corpus=$(corpus "$corpus")
mkdir -p "${1:-matryoshka}" && cd "${1:-matryoshka}"
data=char.st
[ -e "$data" ] || xtool prepare language "$corpus" "${some[@]}" --quiet -o "$data" > /dev/null

base=(--n-layers "$layers" --norm rmsnorm --tied-head --batch-size 16 --lr 1e-3 --beta2 0.95 --weight-decay 0.1
    --warmup "$((steps / 15))" --clip 1 --eval-every "$steps" --steps "$steps")
# size NAME GROUP WIDTH ARGUMENTS...
size() { run "$1" "$2" "${base[@]}" --d-model "$3" --n-heads "$((4 * $3 / width))" "${@:4}"; }
small=$((width / 4)) middle=$((width / 2))
twins() { for d in "$small" "$middle" "$width"; do size twin "twins-$d" "$d"; done; }
nested() { size nested dolls "$width" --arch matryoshka; }

for question in $questions; do
    case $question in
        twins) twins; nested ;;
        flops)
            twins; nested; finish
            # As many FLOPs as the largest twin's, which are fewer steps of all sizes.
            budget=$(flops "twins-$width-twin-"*.rows.jsonl)
            size nested flops "$width" --arch matryoshka --max-flops "$budget"
            ;;
        schedules)
            twins; nested
            size random dolls "$width" --arch matryoshka --nest-schedule random
            size no-distilling dolls "$width" --arch matryoshka --nest-distill 0
            size equal-weights dolls "$width" --arch matryoshka --nest-weights 1,1,1
            size shared-gains dolls "$width" --arch matryoshka --nest-gain shared
            ;;
        hierarchy)
            # Does a hierarchy help, or hold back? The study's levels, the same shuffled, and none, at two widths.
            for d in $((width / 2)) "$width"; do
                levels=(--nest head=2,4,8,16 --nest-schedule joint --eval-every "$((steps / 30 + 1))")
                size "none-$d" hierarchy "$d" "${levels[@]}"
                size "imposed-$d" hierarchy "$d" "${levels[@]}" --categories "$here/categories.toml"
                # 26 pairs are more to learn than two groups.
                size "weighted-$d" hierarchy "$d" "${levels[@]}" --categories "$here/categories.toml" --nest-weights 1,1,1,4,2
                size "shuffled-$d" hierarchy "$d" "${levels[@]}" --categories "$here/categories-shuffled.toml"
            done
            ;;
        emergent)
            for method in average hdbscan threshold; do
                size "$method" emergent "$middle" --nest head=4,8,16 --nest-schedule joint --emergent "$method" --groups 3 \
                    --batch-size 64 --context 32 --lr 5e-3 --every "$((2 * steps))" --steps "$((2 * steps + 1))" --categories "$here/letters.toml"
            done
            ;;
        *) echo "unknown question: $question" >&2; exit 2 ;;
    esac
done
finish

: > tables.md
losses() { xtool evaluate "$@" --size all --format jsonl; }
if ls dolls-*[0-9].st > /dev/null 2>&1; then
    # The first model's sizes name the twins'.
    losses dolls-*[0-9].st twins-*[0-9].st > sizes.jsonl
    ! ls flops-nested-*[0-9].st > /dev/null 2>&1 || losses flops-nested-*[0-9].st | sed 's/"label": "nested"/"label": "nested, equal FLOPs"/' >> sizes.jsonl
    xtool evaluate "twins-$width-twin-"*[0-9].st --size "$small" --size "$middle" --untrained-ok --format jsonl \
        | sed 's/"label": "twin"/"label": "plain cut"/' >> sizes.jsonl
    table "loss by size" sizes.jsonl --where metric=loss --over seed --pivot label size
    table "difference from the twin" sizes.jsonl --where metric=loss --against twin --over seed
    table "agreement and acceptance" sizes.jsonl --where metric=agreement,acceptance --where label=nested,twin --over seed
    first=${seeds%% *}
    table "speed" "dolls-nested-$first.st" "twins-$small-twin-$first.st" "twins-$middle-twin-$first.st" "twins-$width-twin-$first.st" --size all --speed \
        --where metric=tokens_per_second
fi
if ls hierarchy-*[0-9].st > /dev/null 2>&1; then
    table "the whole model's loss" hierarchy-*[0-9].st --where metric=loss --over seed
    for file in hierarchy-{imposed,weighted,shuffled}-*.rows.jsonl; do
        xtool evaluate "$file" --where metric=cosine_contrast --where step="$steps" --where split=dev --format jsonl
    done > contrast.jsonl
    [ ! -s contrast.jsonl ] || table "within minus between cosine" contrast.jsonl --over seed --pivot label size
    xtool plot hierarchy-*.rows.jsonl --kind curves --y loss --x step --where split=dev --force -o hierarchy.png > /dev/null
fi
if ls emergent-*[0-9].st > /dev/null 2>&1; then
    cat emergent-*.rows.jsonl > emergent.jsonl
    table "agreement with letters.toml" emergent.jsonl --where metric=category_agreement --where split=dev --where "step=$((2 * steps + 1))" --over seed --pivot label size
fi
