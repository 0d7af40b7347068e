#!/usr/bin/env bash
# What is each part of a small language model worth? The ladder from counted pairs to a GPT, then one thing changed at a
# time: positions, norm, dropout, optimizer, each part left out, shape, and tokenizer.
#
#   examples/language.sh [OUT]           three seeds of 2,000 steps: a day on two slow cores, hours on faster ones
#   examples/language.sh --fast [OUT]    two seeds, few steps, some of the questions: minutes
#
# QUESTIONS chooses questions, CORPUS a corpus or a text file. The base is the preset `shakespeare-char-cpu`. All but the
# tokenizers train for equal steps on equal tokens, with their FLOPs beside the loss; tokenizers for equal FLOPs, and are
# compared in bits a byte. The rates of the other optimizers are customary proportions of AdamW's, not tuned.
set -euo pipefail
source "$(dirname "$0")/_run.sh"
seeds=${SEEDS:-0 1 2} steps=${STEPS:-2000} corpus=${CORPUS:-builtin} jobs=${JOBS:-2}
groups=${QUESTIONS:-ladder positions norm dropout optimizer parts shape tokenizer}
base=(--preset shakespeare-char-cpu)
if [ "${1:-}" = --fast ]; then
    shift
    seeds="0 1" steps=20 groups="ladder parts tokenizer"
    base+=(--d-model 16 --n-layers 1 --n-heads 2 --context 16)
fi
corpus=$(corpus "$corpus")
mkdir -p "${1:-language}" && cd "${1:-language}"
data=char.st
[ -e "$data" ] || xtool prepare language "$corpus" --quiet -o "$data" > /dev/null

gpt() { run "$1" "$2" "${base[@]}" --steps "$steps" --eval-every "$((steps / 5))" "${@:3}"; }

gpt base base
for group in $groups; do
    case $group in
        ladder) run bigram ladder --arch bigram --preset bigram --steps "$steps" --eval-every "$((steps / 5))" ;;
        positions) for kind in none sinusoidal rotary; do gpt "positions-$kind" positions --positions "$kind"; done ;;
        norm) for kind in none rmsnorm; do gpt "norm-$kind" norm --norm "$kind"; done ;;
        dropout)
            gpt dropout-0.1 dropout --dropout 0.1
            gpt dropout-attention-0.1 dropout --dropout-attention 0.1
            gpt dropout-hidden-0.1 dropout --dropout-hidden 0.1
            ;;
        optimizer)
            gpt lion optimizer --optimizer lion --lr 2e-4 --weight-decay 0.5
            gpt muon optimizer --optimizer muon --lr 3e-3
            gpt sgd optimizer --optimizer sgd --lr 0.1 --weight-decay 1e-3
            gpt wsd optimizer --schedule wsd
            gpt ema optimizer --ema 0.99
            ;;
        parts)
            gpt no-residual parts --no-residual
            gpt no-feed-forward parts --d-ff 0
            gpt no-non-linearity parts --activation none
            gpt relu2 parts --activation relu2
            gpt no-score-scale parts --score-scale none
            gpt plain-average parts --attention average
            gpt qk-norm parts --attention qk-norm
            gpt free-head parts --no-tied-head
            ;;
        shape)
            for heads in 1 8; do gpt "heads-$heads" shape --n-heads "$heads"; done
            for layers in 2 8; do gpt "layers-$layers" shape --n-layers "$layers"; done
            for width in 64 256; do gpt "width-$width" shape --d-model "$width"; done
            gpt context-32 shape --context 32 --batch-size 24
            gpt context-128 shape --context 128 --batch-size 6
            ;;
        tokenizer)
            finish
            budget=$(flops base-base-*.rows.jsonl)
            for kind in byte bpe-512 bpe-2048; do
                size=(); [ "$kind" = byte ] || size=(--vocab-size "${kind#bpe-}")
                [ -e "$kind.st" ] || xtool prepare language "$corpus" --tokenizer "${kind%%-*}" "${size[@]}" --quiet -o "$kind.st" > /dev/null
                data=$kind.st gpt "$kind" tokenizer --steps $((9 * steps)) --max-flops "$budget"
            done
            ;;
        *) echo "unknown group: $group" >&2; exit 2 ;;
    esac
done
finish

: > tables.md
for group in $groups; do
    metric=loss; [ "$group" != tokenizer ] || metric=bits_per_byte
    against=(--against base); [ "$group" != tokenizer ] || against=()
    table "$group" base-base-*[0-9].st "$group"-*[0-9].st --split dev --where "metric=$metric" --over seed "${against[@]}"
    xtool plot base-base-*.rows.jsonl "$group"-*.rows.jsonl --kind curves --x lineage_flops --y "$metric" --where split=dev \
        --force -o "$group.png" > /dev/null
done
