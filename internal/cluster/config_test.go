package cluster

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestInitCreatesOnce(t *testing.T) {
	w := newWorld(t)
	const n = 8
	var (
		configs [n]ClusterConfig
		created [n]bool
		errs    [n]error
		all     sync.WaitGroup
	)
	connections := [2]*Cluster{w.connect(), w.connect()}
	for i := range n {
		all.Go(func() { configs[i], created[i], errs[i] = connections[i%2].Init(w.ctx, i) })
	}
	all.Wait()
	creators := 0
	for i := range n {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		if configs[i] != configs[0] {
			t.Errorf("two configs: %+v and %+v", configs[0], configs[i])
		}
		if created[i] {
			creators++
			if configs[i].InitialShards != i {
				t.Errorf("creator %d got %+v", i, configs[i])
			}
		}
	}
	if creators != 1 {
		t.Errorf("%d created it", creators)
	}
	loaded, err := connections[0].LoadConfig(w.ctx)
	if err != nil || loaded != configs[0] {
		t.Errorf("loaded %+v, %v", loaded, err)
	}
	if len(loaded.UID) != 36 || time.Since(loaded.CreatedAt) > time.Minute {
		t.Errorf("config %+v", loaded)
	}
}

func TestLoadConfigRefuses(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	if _, err := c.LoadConfig(w.ctx); !errors.Is(err, ErrNotInitialized) {
		t.Errorf("without a config: %v", err)
	}
	if _, err := c.Watch(w.ctx); !errors.Is(err, ErrNotInitialized) {
		t.Errorf("watch without a config: %v", err)
	}
	for value, want := range map[string]error{
		`{"uid":"u","slots":1024,"hash":"xxhash64-seed0-top12"}`: ErrMismatch,
		`{"uid":"u","slots":4096,"hash":"crc16"}`:                ErrMismatch,
		`{"slots":4096,"hash":"xxhash64-seed0-top12"}`:           nil,
		`not json`: nil,
	} {
		w.put(w.keys.config(), value)
		for name, load := range map[string]func(context.Context) error{
			"load":  func(ctx context.Context) error { _, err := c.LoadConfig(ctx); return err },
			"init":  func(ctx context.Context) error { _, _, err := c.Init(ctx, 1); return err },
			"read":  func(ctx context.Context) error { _, err := c.Read(ctx); return err },
			"watch": func(ctx context.Context) error { _, err := c.Watch(ctx); return err },
		} {
			err := load(w.ctx)
			if err == nil || want != nil && !errors.Is(err, want) {
				t.Errorf("%s of %s: %v", name, value, err)
			}
		}
	}
	if got := w.get(w.keys.config()); got == "" {
		t.Error("config was overwritten")
	}
}

func TestConnectRefuses(t *testing.T) {
	t.Parallel()
	began := time.Now()
	_, err := Connect(t.Context(), Config{Endpoints: []string{"127.0.0.1:1"}, Password: "hunter2", DialTimeout: 300 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("nothing there: %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	if _, err := Connect(t.Context(), Config{}); err == nil {
		t.Error("no endpoints")
	}
	if _, err := Connect(t.Context(), Config{Endpoints: []string{"http://127.0.0.1:1"}, CAFile: "ca.pem"}); err == nil || !strings.Contains(err.Error(), "https") {
		t.Errorf("TLS files that would not be used: %v", err)
	}
	if _, err := Connect(t.Context(), Config{Endpoints: []string{"https://127.0.0.1:1"}, CAFile: "config_test.go"}); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("bad CA: %v", err)
	}
}
