package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// controlPart is the door of a running `saldo dev` through which `saldo dev add-shard` and `saldo dev drain` start and stop
// its servers. It is on loopback, and whoever may read cluster.json may use it.
type controlPart struct {
	URL   string `json:"url"`
	Token string `json:"token"`
}

// control serves the door.
type control struct {
	dev      *dev
	listener net.Listener
	token    string
}

func newControl(d *dev) (*control, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("serve `saldo dev add-shard`: %w", err)
	}
	return &control{dev: d, listener: listener, token: rand.Text()}, nil
}

func (c *control) part() *controlPart {
	return &controlPart{URL: "http://" + c.listener.Addr().String(), Token: c.token}
}

// serve serves until ctx ends. What is being done then is finished: a server that was started is in cluster.json.
func (c *control) serve(ctx context.Context) error {
	routes := http.NewServeMux()
	// What is done goes on when whoever asked has gone: half a shard helps nobody.
	routes.HandleFunc("POST /shards", c.handle(func(*http.Request) (shardPart, error) { return c.dev.addShard(ctx) }))
	routes.HandleFunc("DELETE /shards/{id}", c.handle(func(r *http.Request) (shardPart, error) {
		return c.dev.setShardAside(ctx, ledger.ShardID(r.PathValue("id")))
	}))
	server := &http.Server{Handler: routes, ReadHeaderTimeout: 5 * time.Second}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		stopped <- server.Shutdown(context.WithoutCancel(ctx))
	}()
	if err := server.Serve(c.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve `saldo dev add-shard`: %w", err)
	}
	return <-stopped
}

// refusal is what the door answers when something could not be done.
type refusal struct {
	Error string `json:"error"`
}

// handle makes a handler of what is done to a shard.
func (c *control) handle(do func(*http.Request) (shardPart, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+c.token)) != 1 {
			http.Error(w, "not with this token", http.StatusForbidden)
			return
		}
		var answer any
		part, err := do(r)
		if answer = part; err != nil {
			w.WriteHeader(http.StatusConflict)
			answer = refusal{err.Error()}
		}
		_ = json.NewEncoder(w).Encode(answer) // whoever asked may have gone
	}
}

// ask asks the door of the `saldo dev` that cluster.json tells of to do something to a shard, and returns the shard.
func (p *controlPart) ask(ctx context.Context, method, path string) (part shardPart, err error) {
	request, err := http.NewRequestWithContext(ctx, method, p.URL+path, nil)
	if err != nil {
		return part, err
	}
	request.Header.Set("Authorization", "Bearer "+p.Token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return part, fmt.Errorf("ask saldo dev: %w", err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return part, fmt.Errorf("ask saldo dev: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		var said refusal
		if json.Unmarshal(content, &said) == nil && said.Error != "" {
			return part, errors.New(said.Error)
		}
		return part, fmt.Errorf("ask saldo dev: %s: %s", response.Status, bytes.TrimSpace(content))
	}
	if err := json.Unmarshal(content, &part); err != nil {
		return part, fmt.Errorf("ask saldo dev: %w", err)
	}
	return part, nil
}
