package local_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/local"
)

func etcdClient(t *testing.T, e *local.Etcd) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: e.Endpoints(), DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func startEtcd(t *testing.T, opts local.EtcdOptions) *local.Etcd {
	t.Helper()
	e := local.NewEtcd(opts)
	began := time.Now()
	if err := e.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	t.Logf("etcd started in %v", time.Since(began))
	t.Cleanup(e.Stop)
	return e
}

func TestEtcdKeepsDataAndPortsOverARestart(t *testing.T) {
	t.Parallel()
	for _, forTests := range []bool{false, true} {
		t.Run(fmt.Sprintf("ForTests=%v", forTests), func(t *testing.T) {
			t.Parallel()
			opts := local.EtcdOptions{Dir: filepath.Join(t.TempDir(), "etcd"), ForTests: forTests}
			ctx := testContext(t)
			e := startEtcd(t, opts)
			before := e.Endpoints()[0]
			if _, err := etcdClient(t, e).Put(ctx, "k", "v"); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			e.Stop()
			e.Stop() // twice does nothing
			t.Logf("stopped in %v", time.Since(began))
			again := startEtcd(t, opts)
			if after := again.Endpoints()[0]; after != before {
				t.Errorf("endpoint changed from %s to %s", before, after)
			}
			got, err := etcdClient(t, again).Get(ctx, "k")
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "v" {
				t.Errorf("after the restart k is %v", got.Kvs)
			}
		})
	}
}

func TestEtcdTakesOtherPortsWhenItsOwnAreTaken(t *testing.T) {
	t.Parallel()
	opts := local.EtcdOptions{Dir: t.TempDir(), ForTests: true}
	ctx := testContext(t)
	e := startEtcd(t, opts)
	if _, err := etcdClient(t, e).Put(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
	ports, err := os.ReadFile(filepath.Join(opts.Dir, "ports"))
	if err != nil {
		t.Fatal(err)
	}
	before := e.Endpoints()[0]
	e.Stop()

	u, err := url.Parse(before)
	if err != nil {
		t.Fatal(err)
	}
	var client, peer string
	if client = u.Port(); len(ports) > len(client) {
		peer = string(ports[len(client)+1 : len(ports)-1])
	}
	for _, port := range []string{client, peer} {
		ln, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
	}

	again := startEtcd(t, opts)
	if after := again.Endpoints()[0]; after == before {
		t.Errorf("still %s, which is taken", after)
	}
	cl := etcdClient(t, again)
	if got, err := cl.Get(ctx, "k"); err != nil || len(got.Kvs) != 1 {
		t.Errorf("get k: %v, %v", got, err)
	}
	if _, err := cl.Put(ctx, "k", "w"); err != nil {
		t.Error(err)
	}
}

func TestEtcdStopDoesNotWaitForWatchersForEver(t *testing.T) {
	t.Parallel()
	e := startEtcd(t, local.EtcdOptions{Dir: t.TempDir()})
	client := etcdClient(t, e)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	watched := client.Watch(ctx, "k")
	lease, err := client.Grant(ctx, 10)
	if err != nil {
		t.Fatal(err)
	}
	alive, err := client.KeepAlive(ctx, lease.ID)
	if err != nil {
		t.Fatal(err)
	}
	<-alive
	if _, err := client.Put(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
	<-watched
	began := time.Now()
	e.Stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("stop took %v", took)
	}
}

func TestEtcdRefusesADirectoryInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	startEtcd(t, local.EtcdOptions{Dir: dir, ForTests: true})
	err := local.NewEtcd(local.EtcdOptions{Dir: dir, ForTests: true}).Start(testContext(t))
	wantLocked(t, err)
}
