package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// admit says why a request may not be answered, if it may not.
func (f *Face) admit(q *http.Request) error {
	switch {
	case f.Token != nil:
		if err := f.checkToken(q.Header.Get("Authorization")); err != nil {
			return err
		}
	case !f.Loopback:
		return refusal(codeTokenNeeded, "this coordinator has no operator token, and its listener is not on loopback: "+
			"give it one with SALDO_ADMIN_TOKEN_FILE (--admin-token-file), or serve operators on 127.0.0.1")
	case !plainHost(q.Host):
		return refusal(codeForeignHost, "without an operator token ask by localhost or an IP address, not by another name: "+
			"a name might be a stranger's that was pointed here")
	case proxied(q):
		return refusal(codeTokenNeeded, "the request came through a proxy, so whoever sent it may be anywhere: to serve operators "+
			"behind one, give this coordinator a token with SALDO_ADMIN_TOKEN_FILE (--admin-token-file)")
	}
	if crossSite(q) {
		return &Error{Code: codeCrossSite, Message: "the request comes from another site's page"}
	}
	if q.Method == http.MethodPost {
		if kind, _, _ := strings.Cut(q.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(kind), jsonType) {
			return refusal(codeMediaType, "say Content-Type: %s, with a body of {} where there is nothing to say", jsonType)
		}
	}
	return nil
}

func (f *Face) checkToken(header string) error {
	wanted, err := f.Token()
	if err != nil {
		return err
	}
	scheme, given, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") || given == "" {
		return refusal(codeUnauthenticated,
			"say the operator's token: Authorization: Bearer … (saldo: --admin-token-file or SALDO_ADMIN_TOKEN_FILE)")
	}
	// Of their hashes, so that the time tells nothing of the length either.
	a, b := sha256.Sum256([]byte(strings.TrimSpace(given))), sha256.Sum256([]byte(wanted))
	if wanted == "" || subtle.ConstantTimeCompare(a[:], b[:]) != 1 {
		return &Error{Code: codeUnauthenticated, Message: "that is not the operator's token"}
	}
	return nil
}

// plainHost tells whether a Host header names this machine in a way that nobody else can: by an address, or as localhost.
func plainHost(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	return strings.EqualFold(name, "localhost") || net.ParseIP(name) != nil
}

// proxied tells whether a proxy says that it has passed the request on. One that says nothing cannot be told from a client.
func proxied(q *http.Request) bool {
	return q.Header["Forwarded"] != nil || q.Header["X-Forwarded-For"] != nil || q.Header["Via"] != nil
}

// crossSite tells whether a browser says that a page of another site has sent the request. Programs say nothing of the kind.
func crossSite(q *http.Request) bool {
	switch q.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		return true
	}
	origin := q.Header.Get("Origin")
	if origin == "" {
		return false
	}
	from, err := url.Parse(origin)
	return err != nil || !strings.EqualFold(from.Host, q.Host)
}
