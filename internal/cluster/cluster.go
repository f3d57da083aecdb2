package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Config says how to reach etcd. The zero value of each field but Endpoints is usable.
type Config struct {
	Endpoints []string // host:port, or URLs; at least one
	Prefix    string   // of all keys of the cluster; "/saldo/default/" if empty; a "/" at the end is added

	CAFile   string // PEM; the system's roots if empty
	CertFile string // PEM, with KeyFile: the client's certificate, read again at each handshake
	KeyFile  string

	Username string
	Password string // never stored, never logged

	DialTimeout time.Duration // for the first contact; 5 s if 0
	LeaseTTL    time.Duration // of elections and live keys, in whole seconds, at least 2; 5 s if 0
	Log         *slog.Logger  // discards if nil
}

const (
	defaultPrefix      = "/saldo/default/"
	defaultDialTimeout = 5 * time.Second
	defaultLeaseTTL    = 5 * time.Second

	// requestTimeout bounds a request that no caller waits for.
	requestTimeout = 2 * time.Second
)

// Cluster is a connection to one cluster's keys. It is safe for concurrent use.
type Cluster struct {
	client   *clientv3.Client
	keys     keys
	leaseTTL time.Duration
	log      *slog.Logger
}

// Connect connects to etcd and makes sure that it answers. Once connected, the client reconnects for as long as it lives.
// Close it when all that uses it has ended.
func Connect(ctx context.Context, config Config) (*Cluster, error) {
	if config.Prefix == "" {
		config.Prefix = defaultPrefix
	}
	if !strings.HasSuffix(config.Prefix, "/") {
		config.Prefix += "/"
	}
	if config.DialTimeout <= 0 {
		config.DialTimeout = defaultDialTimeout
	}
	if config.LeaseTTL <= 0 {
		config.LeaseTTL = defaultLeaseTTL
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	transport, err := config.tls()
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   config.Endpoints,
		TLS:         transport,
		Username:    config.Username,
		Password:    config.Password,
		DialTimeout: config.DialTimeout,
		// An etcd that vanished without closing its connections is noticed after 13 s at most: gRPC allows no shorter
		// time. (Watchers and leases notice earlier, by their own requests.)
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			// gRPC's default goes up to two minutes: much too long for an etcd that is back.
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 3 * time.Second,
		})},
		Logger: zap.NewNop(), // errors are returned, and we log what they mean
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd at %s: %w", strings.Join(config.Endpoints, ","), err)
	}
	c := &Cluster{client: client, keys: keys{config.Prefix}, leaseTTL: config.LeaseTTL, log: config.Log}

	first, cancel := context.WithTimeout(ctx, config.DialTimeout)
	defer cancel()
	if _, err := client.Get(first, c.keys.config(), clientv3.WithKeysOnly()); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to etcd at %s: %w", strings.Join(config.Endpoints, ","), err), client.Close())
	}
	return c, nil
}

// Close ends the connection.
func (c *Cluster) Close() error {
	if err := c.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close the connection to etcd: %w", err)
	}
	return nil
}

// tls returns nil if nothing asks for TLS; https endpoints then use the system's roots.
func (config *Config) tls() (*tls.Config, error) {
	if config.CAFile == "" && config.CertFile == "" && config.KeyFile == "" {
		return nil, nil
	}
	for _, endpoint := range config.Endpoints {
		if strings.HasPrefix(endpoint, "http://") || strings.HasPrefix(endpoint, "unix://") {
			return nil, fmt.Errorf("endpoint %s would not use the TLS files: write https://", endpoint) // clientv3 drops them silently
		}
	}
	transport := &tls.Config{MinVersion: tls.VersionTLS12}
	if config.CAFile != "" {
		pem, err := os.ReadFile(config.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the CA file: %w", err)
		}
		transport.RootCAs = x509.NewCertPool()
		if !transport.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no certificate in the CA file %s", config.CAFile)
		}
	}
	if config.CertFile != "" || config.KeyFile != "" {
		load := func() (*tls.Certificate, error) {
			certificate, err := tls.LoadX509KeyPair(config.CertFile, config.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("load the client certificate: %w", err)
			}
			return &certificate, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		transport.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return transport, nil
}
