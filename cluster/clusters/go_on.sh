#!/usr/bin/env bash
# Starts a run (or a sweep) the first time and resumes it every time after, so that a scheduler may simply begin again:
#   go_on.sh NAME run DOMAIN --preset demo --on ray --workers 4
#   go_on.sh NAME sweep DOMAIN.STAGE --space space.yaml --on ray
# The words after NAME are penstock's; `--name NAME` is added. SIGTERM and SIGINT are passed on and waited for.
# The exit code is penstock's: 0 done, 130 stopped with a checkpoint (go on later), others: a fault.
#   go_on.sh --stop [NAME]   asks what was started so on this machine, by this user, to stop; waits for it
# Environment: PENSTOCK_RUNS (default: ./runs), PENSTOCK (the command, default: penstock).
set -u

running() { # ids of the other go_on.sh of this user; with a NAME: of that run alone
    local folder words
    for folder in /proc/[0-9]*; do
        if [ ! -O "$folder" ] || [ "${folder#/proc/}" = "$$" ]; then continue; fi
        mapfile -d '' -t words <"$folder/cmdline" || continue
        case ${words[0]-} in bash | */bash) ;; *) continue ;; esac
        case ${words[1]-} in *go_on.sh) ;; *) continue ;; esac
        [ "${words[2]-}" != --stop ] || continue
        [ -z "${1-}" ] || [ "${words[2]-}" = "$1" ] || continue
        echo "${folder#/proc/}"
    done 2>/dev/null # processes that end meanwhile
}

if [ "${1-}" = --stop ]; then
    for id in $(running "${2-}"); do
        kill -TERM "$id" 2>/dev/null && echo "go_on.sh: asked $id to stop"
    done
    while [ -n "$(running "${2-}")" ]; do sleep 0.5; done
    exit 0
fi
if [ $# -lt 2 ]; then
    echo "usage: go_on.sh NAME run|sweep|train … (penstock's words), or go_on.sh --stop" >&2
    exit 2
fi

read -r -a penstock <<<"${PENSTOCK:-penstock}"
name=$1
shift
folder=${PENSTOCK_RUNS:-runs}/$name
if [ -e "$folder/status.json" ] || [ -e "$folder/sweep.yaml" ]; then
    set -- resume "$name"
else
    set -- "$@" --name "$name"
fi

child=
asked=
# To the whole group: a workflow is several processes, and the one that trains must hear of it.
pass_on() {
    asked=yes
    [ -z "$child" ] || kill -TERM -- "-$child" 2>/dev/null
}
trap pass_on TERM INT
setsid "${penstock[@]}" "$@" &
child=$!
[ -z "$asked" ] || pass_on
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do # `wait` returns early when a signal comes
    wait "$child"
    code=$?
done
if [ -n "$asked" ]; then
    while kill -0 -- "-$child" 2>/dev/null; do sleep 0.2; done
    [ "$code" -eq 0 ] || code=130
fi
exit "$code"
