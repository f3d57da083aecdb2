package operator

import (
	"context"
	"fmt"
	"regexp"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/saldo-ledger/saldo/internal/operator/v1alpha1"
)

// Connection says how a cluster is reached.
type Connection struct {
	Endpoints            []string
	Prefix               string
	Username, Password   string // of etcd, where it asks for a user
	CA, Certificate, Key []byte // PEM; none: no TLS, or the system's authorities

	ShardPassword        string // of the services' login at every shard; its name stands in each shard's address
	Owner, OwnerPassword string // the login that owns the schema, at every shard
}

func (p *pass) newEngine() engine {
	if p.cluster.Spec.Postgres.Mode == v1alpha1.ModeCloudNativePG {
		return &cloudNativePG{client: p.Client, cluster: p.cluster, logins: p.logins, now: p.now}
	}
	return &statefulSets{client: p.Client, cluster: p.cluster, logins: p.logins}
}

// plainName is what a login is called: it stands in addresses and in SQL.
var plainName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// readLogins reads the Secrets of the shards' logins. Without them nothing is known.
func (p *pass) readLogins(ctx context.Context) (known bool, err error) {
	secret, err := p.secret(ctx, p.cluster.Spec.PasswordSecret.Name, corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
	if secret == nil {
		return false, err
	}
	user, password := string(secret[corev1.BasicAuthUsernameKey]), string(secret[corev1.BasicAuthPasswordKey])
	p.logins = logins{
		user: user, password: password, secretName: p.cluster.Spec.PasswordSecret.Name,
		owner: user, ownerPassword: password, ownerSecret: p.cluster.Spec.PasswordSecret.Name,
	}
	if ref := p.cluster.Spec.OwnerSecret; ref != nil && ref.Name != p.logins.secretName {
		secret, err := p.secret(ctx, ref.Name, corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
		if secret == nil {
			return false, err
		}
		p.logins.owner, p.logins.ownerPassword = string(secret[corev1.BasicAuthUsernameKey]), string(secret[corev1.BasicAuthPasswordKey])
		p.logins.ownerSecret, p.logins.ownerIsAnother = ref.Name, p.logins.owner != user
	}
	for _, name := range []string{p.logins.user, p.logins.owner} {
		if !plainName.MatchString(name) {
			p.block("SecretUnfit", "the login %q is not made of lower case letters, digits and underscores", name)
			return false, nil
		}
	}
	return true, nil
}

// secret reads the keys of a Secret; nil: it is not there, or one of them, and that is what blocks.
func (p *pass) secret(ctx context.Context, name string, keys ...string) (map[string][]byte, error) {
	secret := new(corev1.Secret)
	err := p.Client.Get(ctx, client.ObjectKey{Namespace: p.cluster.Namespace, Name: name}, secret)
	if apierrors.IsNotFound(err) {
		p.block("SecretMissing", "there is no Secret %s", name)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Secret %s: %w", name, err)
	}
	for _, key := range keys {
		if len(secret.Data[key]) == 0 {
			p.block("SecretUnfit", "Secret %s has no %s", name, key)
			return nil, nil
		}
	}
	if secret.Data == nil {
		secret.Data = make(map[string][]byte)
	}
	return secret.Data, nil
}

// connection says how the registry is reached; nil: something is missing, and that is what blocks.
func (p *pass) connection(ctx context.Context) (*Connection, error) {
	etcd := p.cluster.Spec.Etcd
	to := &Connection{
		Endpoints: etcd.Endpoints, Prefix: etcd.Prefix,
		ShardPassword: p.logins.password, Owner: p.logins.owner, OwnerPassword: p.logins.ownerPassword,
	}
	if etcd.PasswordSecret != nil {
		secret, err := p.secret(ctx, etcd.PasswordSecret.Name, corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
		if secret == nil {
			return nil, err
		}
		to.Username, to.Password = string(secret[corev1.BasicAuthUsernameKey]), string(secret[corev1.BasicAuthPasswordKey])
	}
	if etcd.TLSSecret != nil {
		secret, err := p.secret(ctx, etcd.TLSSecret.Name, corev1.ServiceAccountRootCAKey)
		if secret == nil {
			return nil, err
		}
		to.CA = secret[corev1.ServiceAccountRootCAKey]
		to.Certificate, to.Key = secret[corev1.TLSCertKey], secret[corev1.TLSPrivateKeyKey]
	}
	return to, nil
}
