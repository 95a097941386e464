# Completion of `python -m src.train …` and of `src.eval`, `src.predict` and `src.export` in bash: source src/completion.bash
# (What Hydra's own --shell-completion prints completes `python FILE` only.)

_thunderhead() {
    COMPREPLY=()
    if [[ $COMP_LINE =~ ^([^ ]+)\ +-m\ +src\.(train|eval|predict|export)\ (.*)$ ]]; then
        local line="command ${BASH_REMATCH[3]}" # as of a command of one word: so Hydra reads it
        COMPREPLY=($(COMP_LINE=$line "${BASH_REMATCH[1]}" -m "src.${BASH_REMATCH[2]}" -sc query=bash 2> /dev/null))
    fi
}

COMP_WORDBREAKS=${COMP_WORDBREAKS//=/} # model=cnn is one word
complete -o nospace -o default -F _thunderhead python
