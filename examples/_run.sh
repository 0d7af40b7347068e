# Sourced by the experiments: models are trained beside one another, at most $jobs at a time.
declare -A queued=()

failures=$(mktemp) && trap 'rm -f "$failures"' EXIT

# beside NAME COMMAND...: run it beside the others; `finish` says so if it fails
beside() {
    local beside_name=$1
    [ "$jobs" -gt 0 ] || { echo "JOBS is $jobs, it must be 1 or more" >&2; exit 2; }
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || true; done
    [ ! -s "$failures" ] || finish
    (
        # Not `||`, after which bash would go on within a function that failed.
        trap '[ $? = 0 ] || echo "$beside_name" >> "$failures"' EXIT
        "${@:2}" > /dev/null
    ) &
}

# finish: wait for all that runs, and stop if one of them failed
finish() {
    wait
    [ -s "$failures" ] || return 0
    echo "failed: $(tr '\n' ' ' < "$failures")" >&2
    exit 1
}

# run NAME GROUP ARGUMENTS...: one model for each of $seeds on $data, labelled NAME, in GROUP-NAME-SEED.st unless it is
# there or under way
run() {
    local name=$1 group=$2 seed file
    shift 2
    for seed in $seeds; do
        file=$group-$name-$seed.st
        [ ! -e "$file" ] && [ -z "${queued[$file]:-}" ] || continue
        queued[$file]=1
        echo "training $group-$name-$seed" >&2
        beside "$file" xtool train "$data" "$@" --label "$name" --seed "$seed" --threads 1 --quiet --force -o "$file"
    done
}

# flops JOURNAL...: what the first run cost, with its lineage
flops() { xtool evaluate "$@" --where metric=train_seconds --format jsonl | grep -om1 '"lineage_flops": [0-9]*' | cut -d' ' -f2; }

# table TITLE ARGUMENTS...: what `xtool evaluate` says, also in tables.md
table() { { echo; echo "## $1"; echo; xtool evaluate "${@:2}" --format markdown; } | tee -a tables.md; }

# corpus NAME: a corpus by its name, or a file's whole path
corpus() {
    case $1 in
        builtin | builtin-large | text8 | shakespeare) echo "$1" ;;
        *) if [ -f "$1" ]; then realpath "$1"; else echo "$1"; fi ;;
    esac
}
