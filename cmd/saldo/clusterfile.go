package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// clusterFile is cluster.json in the data directory of `saldo dev`: where the parts are, so that other tools can find,
// inspect and kill them. It is kept current, and it holds passwords: mode 0600.
type clusterFile struct {
	HTTP   string      `json:"http"`  // URL of the router
	Admin  string      `json:"admin"` // URL for operators
	Etcd   []string    `json:"etcd"`  // client URLs
	Prefix string      `json:"etcd_prefix"`
	Shards []shardPart `json:"shards"`
	PID    int         `json:"pid"` // of saldo dev: router, coordinator and etcd
	Log    string      `json:"log"`

	Control *controlPart `json:"control"`
}

type shardPart struct {
	ID   ledger.ShardID `json:"id"`
	DSN  string         `json:"dsn"` // with the password
	PID  int            `json:"pid"` // of the postmaster; 0 while it is down
	Data string         `json:"data"`
	Log  string         `json:"log"`
}

func clusterFileIn(data string) string { return filepath.Join(data, "cluster.json") }

// write replaces the file as a whole, so that nobody reads half of it.
func (c *clusterFile) write(data string) error {
	content, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("write cluster.json: %w", err)
	}
	next := clusterFileIn(data) + ".next"
	if err := os.WriteFile(next, append(content, '\n'), 0o600); err != nil {
		return fmt.Errorf("write cluster.json: %w", err)
	}
	if err := os.Rename(next, clusterFileIn(data)); err != nil {
		return fmt.Errorf("write cluster.json: %w", err)
	}
	return nil
}

// readClusterFile returns nil if there is none.
func readClusterFile(data string) (*clusterFile, error) {
	content, err := os.ReadFile(clusterFileIn(data))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read cluster.json: %w", err)
	}
	var c clusterFile
	if err := json.Unmarshal(content, &c); err != nil {
		return nil, fmt.Errorf("read %s: %w", clusterFileIn(data), err)
	}
	return &c, nil
}

// defaultData is where a cluster of `saldo dev` is kept: what root starts has to be reachable for the user that runs
// Postgres, so not in a home directory.
func defaultData() string {
	if os.Geteuid() == 0 {
		return "/var/lib/saldo"
	}
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "saldo")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "share", "saldo")
	}
	return filepath.Join(os.TempDir(), "saldo")
}
