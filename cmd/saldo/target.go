package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// target says which cluster a command is about: the one that etcd's flags name, else the one that `saldo dev` runs from
// the data directory.
type target struct {
	wire.Etcd    `embed:""`
	PasswordFile string `name:"postgres-password-file" env:"SALDO_POSTGRES_PASSWORD_FILE" placeholder:"FILE" help:"Holds the password of all shards. Without it PGPASSWORD and PGPASSFILE count, as for psql."`
	Data         string `name:"data" env:"SALDO_DATA" default:"${data}" help:"Data directory of saldo dev: its cluster is meant where --etcd is not said."`
}

// connect reaches the cluster and returns how to log in to its shards. Close the cluster.
func (t *target) connect(ctx context.Context) (*cluster.Cluster, wire.Passwords, error) {
	found, err := t.find()
	if err != nil {
		return nil, nil, err
	}
	c, err := cluster.Connect(ctx, found.etcd)
	if err != nil && found.guessed {
		err = fmt.Errorf("%w\n  no saldo dev runs from %s: start one, say where its data is with --data or SALDO_DATA, "+
			"or name etcd with --etcd or SALDO_ETCD", err, t.Data)
	}
	return c, found.passwords, err
}

// found is where a cluster is.
type found struct {
	etcd      cluster.Config
	passwords wire.Passwords
	file      *clusterFile // of saldo dev, if that runs it; else nil
	guessed   bool         // nobody has said where etcd is
}

func (t *target) find() (f found, err error) {
	if f.passwords, err = (&wire.Postgres{PasswordFile: t.PasswordFile}).Passwords(); err != nil {
		return f, err
	}
	if len(t.Endpoints) == 0 {
		if f.file, err = readClusterFile(t.Data); err != nil {
			return f, err
		}
		if f.file != nil {
			t.Endpoints, t.Prefix = f.file.Etcd, f.file.Prefix
			f.passwords = f.file.passwords(t.Data)
		}
		f.guessed = f.file == nil
	}
	f.etcd, err = t.Config(slog.New(slog.DiscardHandler))
	return f, err
}

// passwords are those of the shards. A shard that joins later is looked up when it is asked for.
func (c *clusterFile) passwords(data string) wire.Passwords {
	return func(id ledger.ShardID) string {
		if password, ok := c.password(id); ok {
			return password
		}
		if now, err := readClusterFile(data); err == nil && now != nil {
			password, _ := now.password(id)
			return password
		}
		return "" // and whoever logs in is told
	}
}

func (c *clusterFile) password(id ledger.ShardID) (password string, ok bool) {
	for _, s := range c.Shards {
		if dsn, err := url.Parse(s.DSN); err == nil && s.ID == id {
			return dsn.User.Password()
		}
	}
	return "", false
}

// shard connects to the cluster and reads it and one of its shards. The caller closes the connection if there is no error.
func (t *target) shard(ctx context.Context, id string) (*cluster.Cluster, *cluster.View, cluster.Shard, error) {
	etcd, _, err := t.connect(ctx)
	if err != nil {
		return nil, nil, cluster.Shard{}, err
	}
	view, err := etcd.Read(ctx)
	if err != nil {
		return nil, nil, cluster.Shard{}, errors.Join(err, etcd.Close())
	}
	known, err := shardOf(view, id)
	if err != nil {
		return nil, nil, cluster.Shard{}, errors.Join(err, etcd.Close())
	}
	return etcd, view, known, nil
}
