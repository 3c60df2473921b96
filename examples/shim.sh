#!/bin/sh
# The same shim as shim.py, for those who speak no Python: POSIX shell and util-linux.
#
#     multifd conformance receiver 'shim:examples/shim.sh ./example-receiver'

size=1048576
receiver=$1

# Set $value to that of a key in the question: they are flat objects, so that patterns will do.
get() {
    value=${line#*\"$1\": }
    value=${value#\"}
    value=${value%%[\",\}]*}
}

receive() {
    file=$(mktemp) && exec 3<>"$file" && rm "$file"     # memory without a name
    truncate -s "$size" /dev/fd/3
    fifo=$(mktemp -u) && mkfifo "$fifo"
    get channels; channels=$value
    get uuid
    setpriv --pdeathsig KILL "$receiver" --memory /dev/fd/3 \
        --channels "$channels" --uuid "$value" >"$fifo" &
    pid=$!
    exec 4<"$fifo" && rm "$fifo"
    read -r said <&4                                    # "receiver: listens on port 40123"
    echo "{\"address\": \"tcp:127.0.0.1:${said##* }\"}"
}

state() {
    if kill -0 "$pid" 2>/dev/null; then state=running
    elif wait "$pid"; then state=completed
    else state=failed; fi
    echo "{\"state\": \"$state\"}"
}

while IFS= read -r line; do
    get do
    case $value in
    describe)
        echo '{"product": "example-receiver", "version": "1", "dialect": "11.1",' \
            "\"blocks\": {\"ram0\": $size}, \"memory\": true, \"state\": true, \"reason\": true}" ;;
    receive) receive ;;
    read)
        get offset; offset=$value
        get length
        printf '{"hex": "'
        tail -c +$((offset + 1)) /dev/fd/3 | head -c "$value" | basenc --base16 -w0
        echo '"}' ;;
    state) state ;;
    stop)
        kill -9 "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
        exec 3>&- 4<&-
        echo '{}' ;;
    *) echo '{"unsupported": true}' ;;
    esac
done
