# bash completion for k3s-ha-fleet
# Made by packaging/generate; changes are made in the parser of the program.

_k3s_ha_fleet() {
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
            --cluster|--log|--output|-o) skip=$word ;;
            -*) ;;
            *) case "$command${command:+ }$word" in
                "plan") command="plan" ;;
                "apply") command="apply" ;;
                "status") command="status" ;;
            esac ;;
        esac
    done
    case "$previous" in
        --cluster)
            COMPREPLY=()
            return ;;
        --log)
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            compopt -o filenames 2>/dev/null
            return ;;
        --output|-o)
            mapfile -t COMPREPLY < <(compgen -W "table json" -- "$current")
            return ;;
    esac
    case "$command" in
        "")
            if [[ $current == -* ]]; then word="-h --help -V --version"
            else word="plan apply status"; fi ;;
        "plan")
            if [[ $current == -* ]]; then word="-h --help -o --output --no-color --cluster --retry"
            else word=""; fi ;;
        "apply")
            if [[ $current == -* ]]; then word="-h --help -o --output --no-color --cluster --retry --log -y --yes"
            else word=""; fi ;;
        "status")
            if [[ $current == -* ]]; then word="-h --help -o --output --no-color --cluster"
            else word=""; fi ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$word" -- "$current")
}
complete -o default -F _k3s_ha_fleet k3s-ha-fleet
