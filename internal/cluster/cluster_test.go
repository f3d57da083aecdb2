package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// certificate writes a certificate for 127.0.0.1 that is its own authority.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	certDER, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: certDER}, keyFile: {Type: "EC PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// embedded starts an etcd that is not like etcdtest's, and returns its endpoint.
func embedded(t *testing.T, scheme string, configure func(*embed.Config)) string {
	t.Helper()
	if testing.Short() {
		t.Skip("needs etcd, which -short leaves out")
	}
	config := embed.NewConfig()
	config.Dir = filepath.Join(t.TempDir(), "etcd")
	client := []url.URL{{Scheme: scheme, Host: "127.0.0.1:0"}}
	peer := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	config.ListenClientUrls, config.AdvertiseClientUrls = client, client
	config.ListenPeerUrls, config.AdvertisePeerUrls = peer, peer
	config.InitialCluster = config.Name + "=" + peer[0].String()
	config.EnableGRPCGateway, config.UnsafeNoFsync = false, true
	config.TickMs, config.ElectionMs = 10, 100
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	configure(config)
	server, err := embed.StartEtcd(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	<-server.Server.ReadyNotify()
	return scheme + "://" + server.Clients[0].Addr().String()
}

func TestConnectWithTLS(t *testing.T) {
	t.Parallel()
	certFile, keyFile := certificate(t)
	endpoint := []string{embedded(t, "https", func(config *embed.Config) {
		config.ClientTLSInfo.CertFile, config.ClientTLSInfo.KeyFile = certFile, keyFile
		config.ClientTLSInfo.TrustedCAFile, config.ClientTLSInfo.ClientCertAuth = certFile, true
	})}

	c, err := Connect(t.Context(), Config{Endpoints: endpoint, CAFile: certFile, CertFile: certFile, KeyFile: keyFile})
	if err != nil {
		t.Fatal(err)
	}
	if _, created, err := c.Init(t.Context(), 1); err != nil || !created {
		t.Errorf("created %v, %v", created, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	for name, config := range map[string]Config{
		"no client certificate": {CAFile: certFile},
		"unknown authority":     {CertFile: certFile, KeyFile: keyFile},
	} {
		config.Endpoints, config.DialTimeout = endpoint, time.Second
		if c, err := Connect(t.Context(), config); err == nil {
			t.Errorf("%s: connected", name)
			c.Close()
		}
	}
}

// A user whose role is the prefix and nothing else can do all that this package does.
func TestConnectWithPassword(t *testing.T) {
	endpoint := embedded(t, "http", func(config *embed.Config) {
		config.BcryptCost = 4 // the least
	})
	w := newWorld(t, endpoint)
	do := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(w.raw.RoleAdd(w.ctx, "saldo"))
	do(w.raw.RoleGrantPermission(w.ctx, "saldo", w.prefix, clientv3.GetPrefixRangeEnd(w.prefix), clientv3.PermissionType(clientv3.PermReadWrite)))
	do(w.raw.UserAdd(w.ctx, "saldo", "hunter2"))
	do(w.raw.UserGrantRole(w.ctx, "saldo", "saldo"))
	do(w.raw.UserAdd(w.ctx, "root", "root"))
	do(w.raw.UserGrantRole(w.ctx, "root", "root"))
	do(w.raw.AuthEnable(w.ctx))

	if c, err := Connect(w.ctx, Config{Endpoints: w.endpoints, Prefix: w.prefix, Username: "saldo", Password: "wrong"}); err == nil {
		t.Error("connected with a wrong password")
		c.Close()
	}
	c := w.connectWith(Config{Username: "saldo", Password: "hunter2"})
	config := w.registered(c, 2, 2)
	watcher := w.watch(c)
	if founded, err := c.FoundIfDue(w.ctx); !founded || err != nil {
		t.Fatal(founded, err)
	}
	w.eventually(5*time.Second, "founded", func() bool { return watcher.Current().Founded() && watcher.Current().Config == config })
	leader := w.lead(c, "plan", "a")
	within(t, 5*time.Second, "led", leader.began)
	time.Sleep(3 * time.Second) // more than a lease
	if len(leader.ended) > 0 {
		t.Error("not kept alive")
	}
}
