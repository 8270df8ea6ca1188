# bash completion for k3s-ha-agentctl
# Made by packaging/generate; changes are made in the parser of the program.

_k3s_ha_agentctl_ids() {
    k3s-ha-agentctl ${socket:+--socket "$socket"} -o json operations 2>/dev/null | sed -n 's/^      "id": "\([A-Za-z0-9_.-]*\)",*$/\1/p'
}

_k3s_ha_agentctl() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
    local command="" word skip="" socket="" n
    COMPREPLY=()
    # --option=value comes as three words.
    if [[ $current == "=" ]]; then current=""
    elif [[ $previous == "=" ]]; then previous=${COMP_WORDS[COMP_CWORD-2]}; fi
    for ((n = 1; n < COMP_CWORD; n++)); do
        word=${COMP_WORDS[n]}
        if [[ $word == "=" ]]; then continue; fi
        if [[ $skip ]]; then
            if [[ $skip == "--socket" ]]; then socket=$word; fi
            skip=""
            continue
        fi
        case "$word" in
            --cacert|--cert|--conf-d|--config|--file|--for|--idempotency-key|--keep|--key|--limit|--lines|--on-conflict|--output|--reconnect|--socket|--stability|--timeout|--token-file|--url|--writes|-o) skip=$word ;;
            -*) ;;
            *) case "$command${command:+ }$word" in
                "status") command="status" ;;
                "members") command="members" ;;
                "preflight") command="preflight" ;;
                "migrate") command="migrate" ;;
                "join") command="join" ;;
                "rollback") command="rollback" ;;
                "operations") command="operations" ;;
                "watch") command="watch" ;;
                "abort") command="abort" ;;
                "backups") command="backups" ;;
                "backups list") command="backups list" ;;
                "backups verify") command="backups verify" ;;
                "backups prune") command="backups prune" ;;
                "config") command="config" ;;
                "config validate") command="config validate" ;;
                "support-bundle") command="support-bundle" ;;
            esac ;;
        esac
    done
    case "$previous" in
        --cacert|--cert|--config|--file|--key|--socket|--token-file)
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            compopt -o filenames 2>/dev/null
            return ;;
        --conf-d)
            mapfile -t COMPREPLY < <(compgen -d -- "$current")
            compopt -o filenames 2>/dev/null
            return ;;
        --for)
            mapfile -t COMPREPLY < <(compgen -W "migrate join rollback" -- "$current")
            return ;;
        --idempotency-key|--keep|--limit|--lines|--reconnect|--stability|--timeout|--url)
            COMPREPLY=()
            return ;;
        --on-conflict)
            mapfile -t COMPREPLY < <(compgen -W "refuse wait" -- "$current")
            return ;;
        --output|-o)
            mapfile -t COMPREPLY < <(compgen -W "table json" -- "$current")
            return ;;
        --writes)
            mapfile -t COMPREPLY < <(compgen -W "keep discard" -- "$current")
            return ;;
    esac
    case "$command" in
        "")
            if [[ $current == -* ]]; then word="-h --help -V --version --socket --url --cacert --cert --key -o --output -v --verbose --no-color"
            else word="status members preflight migrate join rollback operations watch abort backups config support-bundle"; fi ;;
        "status")
            if [[ $current == -* ]]; then word="-h --help --socket --url --cacert --cert --key -o --output -v --verbose --no-color"
            else word=""; fi ;;
        "members")
            if [[ $current == -* ]]; then word="-h --help --socket --url --cacert --cert --key -o --output -v --verbose --no-color"
            else word=""; fi ;;
        "preflight")
            if [[ $current == -* ]]; then word="-h --help --socket --url --cacert --cert --key -o --output -v --verbose --no-color --for"
            else word=""; fi ;;
        "migrate")
            if [[ $current == -* ]]; then word="-h --help --socket --url --cacert --cert --key -o --output -v --verbose --no-color --accept-slow-disk --timeout --stability --dry-run --detach -y --yes --idempotency-key --reconnect"
            else word=""; fi ;;
        "join")
            if [[ $current == -* ]]; then word="-h --help --socket --url --cacert --cert --key -o --output -v --verbose --no-color --token-file --on-conflict --timeout --stability --dry-run --detach -y --yes --idempotency-key --reconnect"
            else word=""; fi ;;
        "rollback")
            if [[ $current == -* ]]; then word="-h --help --socket --url --cacert --cert --key -o --output -v --verbose --no-color --writes --confirm-lost-writes --timeout --stability --dry-run --detach -y --yes --idempotency-key --reconnect"
            else word=""; fi ;;
        "operations")
            if [[ $current == -* ]]; then word="-h --help --socket --url --cacert --cert --key -o --output -v --verbose --no-color --limit"
            else word="$(_k3s_ha_agentctl_ids)"; fi ;;
        "watch")
            if [[ $current == -* ]]; then word="-h --help --socket --url --cacert --cert --key -o --output -v --verbose --no-color --reconnect"
            else word="$(_k3s_ha_agentctl_ids)"; fi ;;
        "abort")
            if [[ $current == -* ]]; then word="-h --help --socket --url --cacert --cert --key -o --output -v --verbose --no-color"
            else word="$(_k3s_ha_agentctl_ids)"; fi ;;
        "backups")
            if [[ $current == -* ]]; then word="-h --help --socket --url --cacert --cert --key -o --output -v --verbose --no-color"
            else word="list verify prune"; fi ;;
        "backups list")
            if [[ $current == -* ]]; then word="-h --help --socket --url --cacert --cert --key -o --output -v --verbose --no-color"
            else word=""; fi ;;
        "backups verify")
            if [[ $current == -* ]]; then word="-h --help --socket --url --cacert --cert --key -o --output -v --verbose --no-color"
            else word="$(_k3s_ha_agentctl_ids)"; fi ;;
        "backups prune")
            if [[ $current == -* ]]; then word="-h --help --socket --url --cacert --cert --key -o --output -v --verbose --no-color --keep --dry-run -y --yes"
            else word="$(_k3s_ha_agentctl_ids)"; fi ;;
        "config")
            if [[ $current == -* ]]; then word="-h --help --socket --url --cacert --cert --key -o --output -v --verbose --no-color"
            else word="validate"; fi ;;
        "config validate")
            if [[ $current == -* ]]; then word="-h --help --socket --url --cacert --cert --key -o --output -v --verbose --no-color --config --conf-d"
            else word=""; fi ;;
        "support-bundle")
            if [[ $current == -* ]]; then word="-h --help --socket --url --cacert --cert --key -o --output -v --verbose --no-color --file --lines"
            else word=""; fi ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$word" -- "$current")
}
complete -F _k3s_ha_agentctl k3s-ha-agentctl
