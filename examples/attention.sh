#!/usr/bin/env bash
# What is each attention variant worth? Every one beside plain attention, on text and on the counting task, for equal
# steps and for equal FLOPs; then three explanations of why structure does not help, and what a window saves.
#
#   examples/attention.sh [OUT]           five seeds of 2,000 steps: hours on two cores
#   examples/attention.sh --fast [OUT]    two seeds, few steps, some of the questions: minutes
#
# QUESTIONS chooses questions, CORPUS a corpus or a text file, LARGER a longer one, SEEDS, STEPS and JOBS what they say;
# PRESET=shakespeare-char is the original's size, for a GPU. The base is the preset `shakespeare-char-cpu`.
set -euo pipefail
source "$(dirname "$0")/_run.sh"
seeds=${SEEDS:-0 1 2 3 4} steps=${STEPS:-2000} corpus=${CORPUS:-builtin} larger=${LARGER:-builtin-large} jobs=${JOBS:-2}
questions=${QUESTIONS:-text flops counting embedding corpus context}
variants="plain window strided span hard-window soft-window head-gate structure-mlp structure-mlp-post structure-embedding key-importance"
base=(--preset "${PRESET:-shakespeare-char-cpu}")
counting=(--d-model 48 --n-layers 2 --n-heads 4 --epochs "${EPOCHS:-10}" --batch-size 16 --lr 1e-3)
if [ "${1:-}" = --fast ]; then
    shift
    seeds="0 1" steps=20 questions="text counting context" variants="plain window hard-window head-gate structure-mlp-post"
    base+=(--d-model 16 --n-layers 1 --n-heads 4 --context 16)
    counting=(--d-model 16 --n-layers 1 --n-heads 4 --steps 20)
fi

corpus=$(corpus "$corpus") larger=$(corpus "$larger")
mkdir -p "${1:-attention}" && cd "${1:-attention}"
data=char.st
[ -e "$data" ] || xtool prepare language "$corpus" --quiet -o "$data" > /dev/null

# variant NAME GROUP ARGUMENTS...: `run` with the attention that the name says
variant() {
    local kind=${VARIANT:-$1}
    case $kind in
        structure-mlp-post) run "$1" "$2" "${@:3}" --attention structure-mlp --structure-norm post ;;
        *) run "$1" "$2" "${@:3}" --attention "$kind" ;;
    esac
}
text=("${base[@]}" --steps "$steps" --eval-every "$((steps / 5))")

for question in $questions; do
    case $question in
        text) for name in $variants; do variant "$name" text "${text[@]}"; done ;;
        flops)
            variant plain text "${text[@]}"
            finish
            budget=$(flops text-plain-*.rows.jsonl)
            for name in $variants; do
                variant "$name" flops "${base[@]}" --steps $((2 * steps)) --max-flops "$budget" --eval-every "$((steps / 5))"
            done
            ;;
        counting)
            [ -e counting.st ] || xtool prepare counting --quiet -o counting.st > /dev/null
            for name in $variants; do data=counting.st variant "$name" counting "${counting[@]}"; done
            ;;
        embedding)
            for width in 32 384; do
                for name in plain hard-window structure-mlp; do
                    VARIANT=$name variant "$name-$width" embedding "${text[@]}" --d-model "$width"
                done
            done
            ;;
        corpus)
            [ -e larger.st ] || xtool prepare language "$larger" --quiet -o larger.st > /dev/null
            for name in plain hard-window structure-mlp; do data=larger.st variant "$name" corpus "${text[@]}"; done
            ;;
        context)
            for positions in learned rotary none; do
                for context in 32 128; do
                    batch=$((768 / context))
                    VARIANT=plain variant "$positions-$context-all" context "${text[@]}" --positions "$positions" \
                        --context "$context" --batch-size "$batch"
                    VARIANT=window variant "$positions-$context-8" context "${text[@]}" --positions "$positions" \
                        --context "$context" --batch-size "$batch" --window 8
                done
            done
            ;;
        *) echo "unknown question: $question" >&2; exit 2 ;;
    esac
done
finish

: > tables.md
for question in $questions; do
    metric=loss; [ "$question" != counting ] || metric=accuracy
    against=(); [[ $question == embedding || $question == context ]] || against=(--against plain)
    table "$question" "$question"-*[0-9].st --split dev --where "metric=$metric" --over seed "${against[@]}"
done
if [[ " $questions " == *" text "* ]]; then
    xtool evaluate text-*[0-9].st --trace heads --format jsonl > traces.jsonl
    for metric in pairs_kept window_length look_back attention_entropy head_gate; do
        table "$metric" traces.jsonl --where "metric=$metric" --pivot label layer
    done
    xtool plot traces.jsonl --kind windows --where label=hard-window,span,soft-window --force -o windows.png > /dev/null
    xtool plot traces.jsonl --kind windows --y look_back --where label=plain,hard-window,window --force -o look-back.png > /dev/null
    xtool plot traces.jsonl --kind heads --where label=head-gate --force -o head-gates.png > /dev/null
    first=${seeds%% *}
    xtool evaluate "text-hard-window-$first.st" --trace maps --format jsonl > maps.jsonl
    xtool plot maps.jsonl --kind attention-map --force -o attention-map.png > /dev/null
fi
if [[ " $questions " == *" context "* ]]; then
    xtool evaluate context-*[0-9].st --trace heads --format jsonl > context.jsonl
    table entropy context.jsonl --where metric=attention_entropy --pivot label layer
fi
