package etcdtest_test

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/etcdtest"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestPrefixesAreApart(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 100 {
		prefix := etcdtest.Prefix(t)
		if seen[prefix] {
			t.Fatalf("%s twice", prefix)
		}
		seen[prefix] = true
	}
}

func TestSharedServerServes(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	client, key := etcdtest.Client(t), etcdtest.Prefix(t)+"k"
	if _, err := client.Put(ctx, key, "v"); err != nil {
		t.Fatal(err)
	}
	got, err := client.Get(ctx, key)
	if err != nil || len(got.Kvs) != 1 {
		t.Errorf("get: %v, %v", got, err)
	}
}

func TestLeasesMayBeShort(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	lease, err := etcdtest.Client(t).Grant(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if lease.TTL != 1 {
		t.Errorf("granted %d s, not 1", lease.TTL)
	}
}

func TestPrivateServerRestartsWithItsData(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	server := etcdtest.Start(t)
	client := etcdtest.Connect(t, server.Endpoints())
	put, err := client.Put(ctx, "k", "v")
	if err != nil {
		t.Fatal(err)
	}
	watched := client.Watch(ctx, "k", clientv3.WithRev(put.Header.Revision+1))
	server.Stop()
	if err := server.Start(ctx); err != nil {
		t.Fatal(err)
	}
	// The client that was there before, and its watch, find the server again.
	got, err := client.Get(ctx, "k")
	if err != nil || len(got.Kvs) != 1 {
		t.Fatalf("get: %v, %v", got, err)
	}
	if _, err := client.Put(ctx, "k", "w"); err != nil {
		t.Fatal(err)
	}
	select {
	case event := <-watched:
		if event.Err() != nil || len(event.Events) != 1 {
			t.Errorf("watched %+v", event)
		}
	case <-ctx.Done():
		t.Error("the watch saw nothing")
	}
}
