package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Process is what a router or a coordinator announces of itself.
type Process struct {
	Name      string    `json:"name"`
	Address   string    `json:"address"` // of its HTTP listener, as others reach it: host:port
	Version   string    `json:"version"`
	StartedAt time.Time `json:"started_at"`
}

// The kinds of processes that announce themselves.
const (
	Routers      = "routers"
	Coordinators = "coordinators"
)

// AnnounceProcess tells others of this process until ctx ends, and returns ctx's error then. It is a hint only.
func (c *Cluster) AnnounceProcess(ctx context.Context, kind string, p Process) error {
	value, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("announce %s: %w", p.Name, err)
	}
	return c.Announce(ctx, kind, p.Name, string(value))
}

// Processes returns who has announced itself as of a kind, sorted by name. It is a hint, like Alive.
func (c *Cluster) Processes(ctx context.Context, kind string) ([]Process, error) {
	alive, err := c.Alive(ctx, kind)
	if err != nil {
		return nil, err
	}
	processes := make([]Process, 0, len(alive))
	for name, value := range alive {
		p := Process{Name: name}
		if err := json.Unmarshal([]byte(value), &p); err != nil {
			c.log.WarnContext(ctx, "a process has announced what cannot be read", "kind", kind, "name", name, "error", err)
		}
		p.Name = name
		processes = append(processes, p)
	}
	slices.SortFunc(processes, func(a, b Process) int { return cmp.Compare(a.Name, b.Name) })
	return processes, nil
}

// Leaders returns the values of those who lead, by the names of their elections.
func (c *Cluster) Leaders(ctx context.Context) (map[string]string, error) {
	directory := c.keys.leaders()
	resp, err := c.client.Get(ctx, directory, clientv3.WithPrefix(),
		clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
	if err != nil {
		return nil, fmt.Errorf("look up who leads: %w", err)
	}
	leaders := make(map[string]string)
	for _, kv := range resp.Kvs {
		name, _, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), directory), "/")
		if _, older := leaders[name]; !older {
			leaders[name] = string(kv.Value)
		}
	}
	return leaders, nil
}
