package main

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

func TestShardAfter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		used []ledger.ShardID
		want ledger.ShardID
	}{
		{nil, "s1"},
		{[]ledger.ShardID{"s1", "s2"}, "s3"},
		{[]ledger.ShardID{"s2", "s10", "s9"}, "s11"},
		{[]ledger.ShardID{"somebody-elses", "s0", "s01", "s", "s4x", "s2"}, "s3"},
	} {
		if got := shardAfter(c.used); got != c.want {
			t.Errorf("after %v comes %s, not %s", c.used, got, c.want)
		}
	}
}

// Only who can read cluster.json may start and stop servers.
func TestControlWantsItsToken(t *testing.T) {
	t.Parallel()
	door, err := newControl(nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- door.serve(ctx) }()
	for _, token := range []string{"", "guessed", door.token + "x"} {
		part := controlPart{URL: door.part().URL, Token: token}
		if _, err := part.ask(ctx, http.MethodPost, "/shards"); err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("with the token %q: %v", token, err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
