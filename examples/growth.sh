#!/usr/bin/env bash
# The growth experiment: is a model that grew better than one of its size from scratch, and why?
#
#   examples/growth.sh [OUT]           widths 48, 96, 192, ten seeds: some hours on two cores
#   examples/growth.sh --full [OUT]    widths 384 and 768 too
#   examples/growth.sh --fast [OUT]    one width, two seeds, little data: two minutes
#
# At each width: a model from scratch, models grown by each KIND from a trained one of half the width,
# and controls grown from an UNTRAINED one, which show what a construction alone is worth. Then at one
# width (AT): other ratios of the widths, other splits of the ten epochs, other batch sizes.
# Every run is REPLICAS models with seeds of their own, trained as one batch; every grown model trains
# until its lineage has cost what the model from scratch cost, so its journal also holds the row of
# equal epochs. Started again on the same OUT it goes on with the runs that are not there yet.
set -euo pipefail
source "$(dirname "$0")/_run.sh"
mode=${1:-}
case $mode in --fast | --full) shift ;; *) mode= ;; esac
mkdir -p "${1:-growth}" && cd "${1:-growth}"

widths=${WIDTHS-48 96 192} at=${AT-96} replicas=${REPLICAS:-10} lr=${LR:-1e-4} jobs=${JOBS:-2}
kinds=${KINDS-pad clone split identity identity-qkv double spectral random} some=${SOME:-pad identity-qkv}
ratios=${RATIOS-3 4} splits=${SPLITS-1 3 7 9} batches=${BATCHES-64 128} epochs=10
network=(--preset counting) data=()
if [ "$mode" = --full ]; then widths="$widths 384 768"; fi
if [ "$mode" = --fast ]; then
    widths=16 at=16 replicas=2 kinds="pad random" some=pad ratios=4 splits=1 batches=64 epochs=2
    network=(--n-heads 1) data=(--train-size 300 --dev-size 50 --test-size 50)
fi
half=$((epochs / 2))
[ -e data.st ] || xtool prepare counting "${data[@]}" -o data.st > /dev/null

# job NAME ...: runs the rest beside the others, unless NAME.st is there already.
job() { [ -e "$1.st" ] || beside "$@"; }
train() { xtool train data.st --lr "$lr" --threads 1 --quiet --force "$@"; }

# fresh NAME LABEL WIDTH EPOCHS BATCH
fresh() { job "$1" train "${network[@]}" --replicas "$replicas" --d-model "$3" --epochs "$4" --batch-size "$5" --label "$2" -o "$1.st"; }
# grown NAME LABEL SMALL KIND WIDTH SCRATCH: as much training as SCRATCH had in all, the small model's included
grown() { job "$1" grow_and_train "$@"; }
grow_and_train() {
    xtool grow "$3.st" --to "$5" --method "$4" --quiet --force -o "start-$1.st"
    train --from "start-$1.st" --epochs $((2 * epochs)) --max-flops "$(flops "$6.rows.jsonl")" --label "$2" -o "$1.st"
    rm "start-$1.st"
}

# The widest first, so that no long run is left alone at the end.
for width in $(tac -s ' ' <<< "$widths "); do
    fresh "scratch-$width" scratch "$width" $epochs 16
    fresh "small-$width" small $((width / 2)) $half 16
    fresh "untrained-$width" untrained $((width / 2)) 0 16
done
for ratio in $ratios; do fresh "small-$at-ratio$ratio" small $((at / ratio)) $half 16; done
for before in $splits; do fresh "small-$at-split$before" small $((at / 2)) "$before" 16; done
for batch in $batches; do
    fresh "scratch-$at-batch$batch" scratch "$at" $epochs "$batch"
    fresh "small-$at-batch$batch" small $((at / 2)) $half "$batch"
    fresh "untrained-$at-batch$batch" untrained $((at / 2)) 0 "$batch"
done
finish

for width in $(tac -s ' ' <<< "$widths "); do
    for kind in $kinds; do grown "grown-$width-$kind" "$kind" "small-$width" "$kind" "$width" "scratch-$width"; done
    for kind in $some; do grown "control-$width-$kind" "untrained $kind" "untrained-$width" "$kind" "$width" "scratch-$width"; done
done
for kind in $some; do
    for ratio in $ratios; do
        grown "grown-$at-ratio$ratio-$kind" "$kind, ratio $ratio" "small-$at-ratio$ratio" "$kind" "$at" "scratch-$at"
    done
    for before in $splits; do
        grown "grown-$at-split$before-$kind" "$kind, $before+$((epochs - before))" "small-$at-split$before" "$kind" "$at" "scratch-$at"
    done
    for batch in $batches; do
        grown "grown-$at-batch$batch-$kind" "$kind" "small-$at-batch$batch" "$kind" "$at" "scratch-$at-batch$batch"
        grown "control-$at-batch$batch-$kind" "untrained $kind" "untrained-$at-batch$batch" "$kind" "$at" "scratch-$at-batch$batch"
    done
done
finish

dev=(--where metric=accuracy --where split=dev --over seed)
# tables TITLE ROWS...: at equal epochs and at equal epochs since growth from the journals, and at equal FLOPs
tables() {
    local title=$1 models=("${@:2}") name
    for name in epochs flops; do rm -f "$title-$name.jsonl"; done
    printf '\n## %s\n\n%s epochs in all, the small model'"'"'s included\n\n' "$title" $epochs
    xtool evaluate "${models[@]/%/.rows.jsonl}" "${dev[@]}" --where lineage_epoch=$epochs --against scratch --format jsonl > "$title-epochs.jsonl"
    xtool evaluate "$title-epochs.jsonl" --format markdown
    printf '\nequal training FLOPs, the small model'"'"'s included\n\n'
    xtool evaluate "${models[@]/%/.st}" "${dev[@]}" --against scratch --format jsonl > "$title-flops.jsonl"
    xtool evaluate "$title-flops.jsonl" --format markdown
    for name in epochs flops; do
        xtool plot "$title-$name.jsonl" --kind bars --y accuracy_difference --title "$title: against scratch, equal $name" --force -o "$title-$name.png" > /dev/null
    done
    for name in epoch flops; do
        xtool plot "${models[@]/%/.rows.jsonl}" --kind curves --x "lineage_$name" --where split=dev --title "$title" --force -o "$title-by-$name.png" > /dev/null
        xtool plot "${models[@]/%/.rows.jsonl}" --kind curves --x "lineage_$name" --where split=train --y loss --title "$title" --force -o "$title-loss-by-$name.png" > /dev/null
    done
}
# since TITLE ROWS...: equal epochs since growth, against the control
since() {
    printf '\n%s epochs since growth, against the same construction on an untrained small model\n\n' $half
    for kind in $some; do
        xtool evaluate {grown,control}-"$1-$kind".rows.jsonl "${dev[@]}" --where epoch=$half --against "untrained $kind" --format markdown
    done
}
names() { ls "$@" 2> /dev/null | sed 's/\.st$//'; }
{
    for width in $widths; do
        tables "width-$width" $(names {grown,control}-"$width"-[a-z]*.st | grep -v -e ratio -e split[0-9] -e batch) "scratch-$width"
        since "$width"
    done
    [ -z "$ratios" ] || tables ratio $(names grown-"$at"-ratio*.st) $(for kind in $some; do names grown-"$at-$kind".st; done) "scratch-$at"
    [ -z "$splits" ] || tables split $(names grown-"$at"-split*.st) $(for kind in $some; do names grown-"$at-$kind".st; done) "scratch-$at"
    for batch in $batches; do
        tables "batch-$batch" $(names {grown,control}-"$at-batch$batch"-*.st) "scratch-$at-batch$batch"
        since "$at-batch$batch"
    done
} | tee tables.md
