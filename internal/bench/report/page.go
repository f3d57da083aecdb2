package report

import (
	"fmt"
	"regexp"
	"strings"
)

var opening = regexp.MustCompile(`(?m)^<!-- bench:([a-z-]+) -->\n`)

// fill replaces what stands between each pair of markers by what show returns for their name.
func fill(page string, show func(name string) (string, error)) (string, error) {
	var filled strings.Builder
	for {
		at := opening.FindStringSubmatchIndex(page)
		if at == nil {
			break
		}
		name := page[at[2]:at[3]]
		closing := fmt.Sprintf("<!-- /bench:%s -->", name)
		_, rest, ok := strings.Cut(page[at[1]:], closing)
		if !ok {
			return "", fmt.Errorf("%s is missing after <!-- bench:%s -->", closing, name)
		}
		text, err := show(name)
		if err != nil {
			return "", fmt.Errorf("<!-- bench:%s -->: %w", name, err)
		}
		// Without the empty lines a table would not be one.
		filled.WriteString(page[:at[1]] + "\n" + strings.TrimSpace(text) + "\n\n" + closing)
		page = rest
	}
	filled.WriteString(page)
	return filled.String(), nil
}
