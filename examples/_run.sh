# Sourced by the experiments. Trains models beside one another: at most $jobs at a time, one for each of $seeds, on $data.
declare -A queued=()

# run NAME GROUP ARGUMENTS...: one model a seed, labelled NAME, in GROUP-NAME-SEED.st unless it is there or under way
run() {
    local name=$1 group=$2 seed file
    shift 2
    for seed in $seeds; do
        file=$group-$name-$seed.st
        [ ! -e "$file" ] && [ -z "${queued[$file]:-}" ] || continue
        queued[$file]=1
        echo "training $group-$name-$seed" >&2
        while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
        xtool train "$data" "$@" --label "$name" --seed "$seed" --threads 1 --quiet --force -o "$file" > /dev/null &
    done
}
