package cluster

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// StripDSN returns a Postgres connection string, in either of libpq's forms, without its secrets. It refuses, without
// quoting it, text of which it cannot tell what is secret.
func StripDSN(dsn string) (string, error) {
	if strings.ContainsFunc(dsn, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", errors.New("dsn contains a control character")
	}
	for _, scheme := range []string{"postgres://", "postgresql://"} {
		if rest, ok := strings.CutPrefix(dsn, scheme); ok {
			stripped, err := stripURL(rest)
			return scheme + stripped, err
		}
	}
	if strings.Contains(dsn, "://") && !strings.Contains(dsn[:strings.Index(dsn, "://")], "=") {
		return "", errors.New("dsn is a URL of another scheme than postgres://")
	}
	return stripPairs(dsn)
}

// secret tells whether a connection parameter holds a secret, today or by its name in a later libpq. Those that name a file
// do not.
func secret(parameter string) bool {
	switch parameter = strings.ToLower(parameter); parameter {
	case "passfile", "sslkey":
		return false
	case "scram_client_key", "scram_server_key":
		return true
	}
	for _, word := range []string{"password", "passphrase", "passwd", "secret", "token"} {
		if strings.Contains(parameter, word) {
			return true
		}
	}
	return false
}

// stripURL takes what follows the scheme. It works on the text: net/url knows nothing of several hosts.
func stripURL(text string) (string, error) {
	if strings.Contains(text, "#") {
		return "", errors.New("dsn contains a bare #: write it as %23")
	}
	end := strings.IndexAny(text, "/?")
	if end < 0 {
		end = len(text)
	}
	authority, rest := text[:end], text[end:]
	// A bare slash or question mark within a password would end the authority too early and leave a secret in the rest.
	if strings.Contains(rest, "@") || strings.Count(authority, "@") > 1 {
		return "", errors.New("dsn contains a bare @, / or ? in the password or after the host: write them as %40, %2F and %3F")
	}
	if user, hosts, ok := strings.Cut(authority, "@"); ok {
		user, _, _ = strings.Cut(user, ":")
		authority = user + "@" + hosts
	}
	path, query, _ := strings.Cut(rest, "?")
	var kept []string
	for parameter := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(parameter, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			return "", errors.New("dsn has a parameter whose name is not well escaped")
		}
		if parameter != "" && !secret(name) {
			kept = append(kept, parameter)
		}
	}
	stripped := authority + path
	if len(kept) > 0 {
		stripped += "?" + strings.Join(kept, "&")
	}
	if strings.Trim(stripped, "/@") == "" && len(kept) == 0 {
		return "", errors.New("dsn names no host and no database")
	}
	return stripped, nil
}

// stripPairs takes keyword=value pairs: values may be quoted with ' and escaped with \.
func stripPairs(text string) (string, error) {
	var kept []string
	for text = strings.TrimLeft(text, " "); text != ""; text = strings.TrimLeft(text, " ") {
		name, rest, ok := strings.Cut(text, "=")
		name = strings.TrimSpace(name)
		if !ok || name == "" || strings.Contains(name, " ") {
			return "", errors.New("dsn is neither a postgres:// URL nor keyword=value pairs")
		}
		value, rest, err := pairValue(strings.TrimLeft(rest, " "))
		if err != nil {
			return "", err
		}
		if !secret(name) {
			kept = append(kept, name+"="+quoteValue(value))
		}
		text = rest
	}
	if len(kept) == 0 {
		return "", errors.New("dsn is empty")
	}
	return strings.Join(kept, " "), nil
}

func pairValue(text string) (value, rest string, err error) {
	quoted := strings.HasPrefix(text, "'")
	if quoted {
		text = text[1:]
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		case c == '\'' && quoted:
			if i+1 < len(text) && text[i+1] != ' ' {
				return "", "", errors.New("dsn has text right after a closing quote")
			}
			return b.String(), text[i+1:], nil
		case c == ' ' && !quoted:
			return b.String(), text[i:], nil
		default:
			b.WriteByte(c)
		}
	}
	if quoted {
		return "", "", errors.New("dsn has a quote that does not end")
	}
	return b.String(), "", nil
}

func quoteValue(value string) string {
	if value != "" && !strings.ContainsAny(value, ` '\`) {
		return value
	}
	return fmt.Sprintf("'%s'", strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value))
}
