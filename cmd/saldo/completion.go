package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// completionCommand prints what a shell is to run. That asks completeCommand what could come next, so it stays right when
// commands change.
type completionCommand struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help says what to do with it.
func (c *completionCommand) Help() string {
	return "For this session: `source <(saldo completion bash)`, the same for zsh (after compinit), or `saldo completion fish | source`. " +
		"For all: put that line into ~/.bashrc or ~/.zshrc, or `saldo completion fish > ~/.config/fish/completions/saldo.fish`. " +
		"saldo has to be in $PATH."
}

func (c *completionCommand) Run(to streams) error {
	_, err := fmt.Fprint(to.out, completions[c.Shell])
	return err
}

var completions = map[string]string{
	"bash": `_saldo() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("${line%%$'\t'*}")
    done < <(saldo __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -F _saldo saldo
`,
	"zsh": `#compdef saldo
_saldo() {
    local line
    local -a found
    for line in "${(@f)$(saldo __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -n $line ]] && found+=("${line%%$'\t'*}:${line#*$'\t'}")
    done
    if (( $#found )); then _describe saldo found; else _files; fi
}
compdef _saldo saldo
`,
	"fish": `function __saldo
    saldo __complete -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null
end
complete -c saldo -n 'count (__saldo) >/dev/null' -f -a '(__saldo)'
`,
}

// completeCommand says what could stand for the last word, a line for each with what it means.
type completeCommand struct {
	Words []string `arg:"" optional:""`
}

func (c *completeCommand) Run(parsed *kong.Context, to streams) error {
	for _, one := range couldBe(parsed.Model.Node, c.Words) {
		if _, err := fmt.Fprintf(to.out, "%s\t%s\n", one.text, one.help); err != nil {
			return err
		}
	}
	return nil
}

// candidate is a word that could be typed.
type candidate struct{ text, help string }

// couldBe walks down the commands that are typed already, and returns what could stand for the last word.
func couldBe(node *kong.Node, words []string) []candidate {
	if len(words) == 0 {
		words = []string{""}
	}
	last, before := words[len(words)-1], words[:len(words)-1]
	var value *kong.Value // of which the next word is one
	given := 0            // positional arguments
	for _, word := range before {
		flag := flagOf(node, word)
		child := childOf(node, word)
		switch {
		case value != nil:
			value = nil
		case flag != nil && !flag.IsBool() && !strings.Contains(word, "="):
			value = flag.Value
		case strings.HasPrefix(word, "-"):
		case child != nil:
			node, given = child, 0
		default:
			given++
		}
	}
	var all []candidate
	add := func(text, help string) {
		if strings.HasPrefix(text, last) {
			help, _, _ = strings.Cut(help, ". ")
			all = append(all, candidate{text, strings.TrimSuffix(help, ".")})
		}
	}
	switch {
	case value != nil:
		addEnum(value, add)
	case strings.HasPrefix(last, "-"):
		for _, group := range node.AllFlags(true) {
			for _, flag := range group {
				add("--"+flag.Name, flag.Help)
			}
		}
	default:
		for _, child := range node.Children {
			if !child.Hidden {
				add(child.Name, child.Help)
			}
		}
		if given < len(node.Positional) {
			addEnum(node.Positional[given], add)
		}
	}
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Compare(a.text, b.text) })
	return slices.Compact(all)
}

func addEnum(value *kong.Value, add func(text, help string)) {
	if value.Enum == "" {
		return
	}
	for one := range strings.SplitSeq(value.Enum, ",") {
		add(strings.TrimSpace(one), value.Help)
	}
}

func childOf(node *kong.Node, name string) *kong.Node {
	for _, child := range node.Children {
		if child.Name == name || slices.Contains(child.Aliases, name) {
			return child
		}
	}
	return nil
}

// flagOf returns the flag of a word like --name, --name=value or -n.
func flagOf(node *kong.Node, word string) *kong.Flag {
	name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
	if !strings.HasPrefix(word, "-") || name == "" {
		return nil
	}
	for _, group := range node.AllFlags(false) {
		for _, flag := range group {
			if flag.Name == name || flag.Short != 0 && string(flag.Short) == name {
				return flag
			}
		}
	}
	return nil
}
