#!/usr/bin/env bash
# What does one looped block make of in-context linear regression: beside twelve layers of its own, by loops and by the
# loss's window, past the loops it was trained at, with tokens masked, and with more layers a loop?
#
#   examples/looped.sh [OUT]           the study's sizes, three seeds of 20,000 steps: for a GPU
#   examples/looped.sh --fast [OUT]    two seeds, tiny, some of the questions: a few minutes
#
# QUESTIONS chooses questions; SEEDS, STEPS, DIMS, POINTS, WIDTH, HEADS, LOOPS, WINDOW, LR and JOBS are what they say, and
# MORE are arguments of every training, such as `--optimizer muon --precision bf16 --compile`.
set -euo pipefail
source "$(dirname "$0")/_run.sh"
seeds=${SEEDS:-0 1 2} steps=${STEPS:-20000} jobs=${JOBS:-2}
dims=${DIMS:-10} points=${POINTS:-31} width=${WIDTH:-256} heads=${HEADS:-8} loops=${LOOPS:-20} window=${WINDOW:-10}
questions=${QUESTIONS:-twin grid schedule tokens layers}
grid="5 10 15 20 25" windows="10 20" layers="1 2 4"
if [ "${1:-}" = --fast ]; then
    shift
    seeds="0 1" steps=20 dims=3 points=8 width=16 heads=2 loops=4 window=2
    grid="2 4" windows="2 4" layers="1 2" questions="twin grid tokens"
fi
base=(--steps "$steps" --eval-every "$((steps / 10))" --batch-size 64 --lr "${LR:-1e-3}" --warmup "$((steps / 20))"
    --schedule cosine --clip 1 --reach squared_error=0.9 --d-model "$width" --n-heads "$heads" --bias all ${MORE:-})

mkdir -p "${1:-looped}" && cd "${1:-looped}"
data=prompts.st
[ -e "$data" ] || xtool prepare regression --dims "$dims" --points "$points" --quiet -o "$data" > /dev/null

# looped NAME GROUP LOOPS WINDOW ARGUMENTS...
looped() { run "$1" "$2" "${base[@]}" --arch looped --n-loops "$3" --loss-loops "$4" "${@:5}"; }
# twins: what both `twin` and `tokens` look at
twins() {
    looped fixed twin "$loops" "$window"
    # Half to one and a half times as many loops: as many on average, and what they come to has to stay.
    looped random twin "$((loops * 3 / 2))" "$window" --loops-by random --loops-from "$((loops / 2))"
}

for question in $questions; do
    case $question in
        twin)
            twins
            run twelve-layers twin "${base[@]}" --n-layers 12
            ;;
        tokens) twins ;;
        grid)
            for b in $grid; do
                # A window beyond the loops is the same objective as one of all loops.
                for t in $windows; do [ "$t" -gt "$b" ] && [ "$t" != "${windows%% *}" ] || looped "$b-$t" grid "$b" "$t"; done
            done
            ;;
        schedule)
            looped "ramp-5-$loops" schedule "$loops" "$window" --loops-from 5 --loops-every "$((steps / 2 / loops))"
            looped scaled schedule "$loops" "$window" --injection scaled
            ;;
        layers) for l in $layers; do looped "layers-$l" layers "$((loops / 2))" "$window" --n-layers "$l"; done ;;
        *) echo "unknown question: $question" >&2; exit 2 ;;
    esac
done
finish

: > tables.md
for question in $questions; do
    [ "$question" != tokens ] || continue
    found=("$question"-*[0-9].st)
    table "$question" "${found[@]}" --where metric=squared_error,least_squares --over seed
    looping=() && for file in "${found[@]}"; do [[ $file == *twelve* ]] || looping+=("$file"); done
    xtool evaluate "${looping[@]}" --loops "1:$((5 * loops))" --residual --format jsonl > "$question-loops.jsonl"
    xtool evaluate "$question-loops.jsonl" --where metric=squared_error --where "loops=1,$((loops / 2)),$loops,$((2 * loops)),$((5 * loops))" \
        --pivot label loops --format markdown | tee -a tables.md
    xtool plot "$question-loops.jsonl" --kind loops --force -o "$question-loops.png" > /dev/null
    xtool plot "$question"-*.rows.jsonl --kind curves --y squared_error --x step --force -o "$question-curves.png" > /dev/null
done
if [[ " $questions " == *" twin "* ]]; then
    xtool evaluate twin-*[0-9].st --by-examples --format jsonl > examples.jsonl
    xtool plot examples.jsonl --kind examples --force -o examples.png > /dev/null
    table "by examples" examples.jsonl --where metric=squared_error,least_squares --where "examples=0,$((dims / 2)),$dims,$((2 * dims))" --pivot label examples
    xtool evaluate twin-fixed-*[0-9].st twin-random-*[0-9].st --exits 1e-1,3e-2,1e-2,3e-3,1e-3 --loops "1:$((2 * loops))" --format jsonl > exits.jsonl
    xtool plot exits.jsonl --kind exits --force -o exits.png > /dev/null
fi
if [[ " $questions " == *" tokens "* ]]; then
    for mask in state input; do
        for end in first last; do
            # A point is two positions, so steps of two end at the end of the prompt.
            xtool evaluate twin-fixed-*[0-9].st twin-random-*[0-9].st --mask "$mask" --keep "$end:0:$((2 * points)):2" --loops "$loops" --format jsonl
        done
    done > tokens.jsonl
    xtool plot tokens.jsonl --kind tokens --force -o tokens.png > /dev/null
fi
