"""`vbdev completion SHELL`: what to give a shell so that it completes vbdev's words.

The scripts know nothing themselves: at each TAB they ask `vbdev __complete` (see `complete`), so
that methods, parameters and bdevs are those of the daemon that runs.
"""

from __future__ import annotations

import argparse

# Bash cuts words at = and :, of which key=value and addresses are full. They are put together again
# where nothing stands between them on the line, and cut off again in front of what is answered.
BASH = r"""_vbdev() {
    local rest=${COMP_LINE:0:COMP_POINT} words=() word bare line
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        bare=${rest#"${rest%%[![:space:]]*}"}
        if [[ $bare == "$rest" && ${#words[@]} -gt 0 ]]; then
            words[-1]+=$word
        else
            words+=("$word")
        fi
        rest=${bare#"$word"}
    done
    local current=${words[-1]} kept=
    if [[ $current == *[=:]* && $COMP_WORDBREAKS == *[=:]* ]]; then
        kept=${current%"${current##*[=:]}"}
    fi
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            :files)
                compopt -o filenames
                mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "${current#"$kept"}")
                ;;
            *)
                line=${line%%$'\t'*}
                COMPREPLY+=("$(printf %q "${line#"$kept"}")")
                ;;
        esac
    done < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace
    fi
}
complete -F _vbdev vbdev
"""

ZSH = r"""#compdef vbdev
_vbdev() {
    local line value
    local -a plain plain_shown open open_shown
    while IFS= read -r line; do
        if [[ $line == :files ]]; then
            [[ $PREFIX == *=* ]] && compset -P '*='
            _files
            continue
        fi
        value=${line%%$'\t'*}
        line=${line/$'\t'/  -- }
        if [[ $value == *= ]]; then
            open+=("$value"); open_shown+=("$line")
        else
            plain+=("$value"); plain_shown+=("$line")
        fi
    done < <("${words[1]}" __complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    (( $#plain )) && compadd -l -d plain_shown -a plain
    (( $#open )) && compadd -l -S '' -d open_shown -a open
    return 0
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _vbdev "$@"
else
    compdef _vbdev vbdev
fi
"""

FISH = r"""function __vbdev_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    for line in ($words[1] __complete $words[2..-1] $current 2>/dev/null)
        if test "$line" = :files
            set -l key (string match -r '^[^/]*=' -- $current)
            string join \n -- "$key"(__fish_complete_path (string replace -- "$key" '' $current))
        else
            printf '%s\n' $line
        end
    end
end
complete -c vbdev -f -a '(__vbdev_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vbdev completion`."""
    parser.add_argument(
        "shell",
        choices=SCRIPTS,
        help='bash, zsh: eval "$(vbdev completion bash)"; fish: vbdev completion fish | source',
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    print(SCRIPTS[arguments.shell], end="")
    return 0
