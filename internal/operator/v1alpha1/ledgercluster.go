package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// LedgerCluster is the shards of one cluster: how many there are to be, and what each one's Postgres is made of. Its etcd,
// routers and coordinators are not its business.
type LedgerCluster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   LedgerClusterSpec   `json:"spec"`
	Status LedgerClusterStatus `json:"status,omitempty"`
}

// LedgerClusterList is several of them.
type LedgerClusterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []LedgerCluster `json:"items"`
}

// LedgerClusterSpec is what is wanted.
type LedgerClusterSpec struct {
	Shards    int32     `json:"shards"`              // 1 to 64
	Slots     int32     `json:"slots,omitempty"`     // 4096, for ever
	Rebalance Rebalance `json:"rebalance,omitempty"` // as the coordinators run: with --rebalance=auto or not
	Postgres  Postgres  `json:"postgres"`
	Etcd      Etcd      `json:"etcd"`

	// PasswordSecret is the login of routers, coordinators and the operator at every shard: username and password.
	PasswordSecret SecretReference `json:"passwordSecret"`
	// OwnerSecret is the login that owns the schema, and migrates: username and password. Without it the services' login
	// is the owner.
	OwnerSecret *SecretReference `json:"ownerSecret,omitempty"`
}

// Rebalance says who has slots move to a shard that has joined.
type Rebalance string

const (
	RebalanceAuto   Rebalance = "auto"   // the coordinators, by themselves
	RebalanceManual Rebalance = "manual" // a person, by `saldo rebalance`
)

// Postgres is what each shard's Postgres is made of.
type Postgres struct {
	Mode       Mode                        `json:"mode,omitempty"`      // for ever
	Image      string                      `json:"image,omitempty"`     // of CloudNativePG: its own default if empty
	Instances  int32                       `json:"instances,omitempty"` // of CloudNativePG: the primary and its standbys
	UserID     *int64                      `json:"userID,omitempty"`    // of StatefulSet: whom the image runs Postgres as
	Storage    Storage                     `json:"storage"`
	Resources  corev1.ResourceRequirements `json:"resources,omitempty"`
	Parameters map[string]string           `json:"parameters,omitempty"` // of postgresql.conf
	// ClusterTemplate is more of CloudNativePG's Cluster: backups, monitoring, affinity. What the operator says goes above it.
	ClusterTemplate *runtime.RawExtension `json:"clusterTemplate,omitempty"`
}

// Mode is who runs a shard's Postgres.
type Mode string

const (
	ModeStatefulSet   Mode = "StatefulSet"   // one server, on one volume
	ModeCloudNativePG Mode = "CloudNativePG" // a primary and standbys, which CloudNativePG runs
)

// Storage is a shard's volume. A new size is that of shards made later.
type Storage struct {
	Size      resource.Quantity `json:"size"`
	ClassName *string           `json:"className,omitempty"`
}

// Etcd says where the cluster's registry is.
type Etcd struct {
	Endpoints []string `json:"endpoints"`
	Prefix    string   `json:"prefix,omitempty"` // for ever
	// PasswordSecret is the user, where etcd asks for one: username and password.
	PasswordSecret *SecretReference `json:"passwordSecret,omitempty"`
	// TLSSecret holds ca.crt and, where etcd asks who comes, tls.crt and tls.key.
	TLSSecret *SecretReference `json:"tlsSecret,omitempty"`
}

// SecretReference names a Secret of the same namespace.
type SecretReference struct {
	Name string `json:"name"`
}

// LedgerClusterStatus is what the operator saw last. Nothing is decided by it.
type LedgerClusterStatus struct {
	Shards             int32              `json:"shards"`      // that are registered or being made
	ReadyShards        int32              `json:"readyShards"` // that are registered and answer
	Selector           string             `json:"selector,omitempty"`
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Cluster            string             `json:"cluster,omitempty"` // the registry's uid
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
	Members            []Member           `json:"members,omitempty"`
}

// The conditions of a LedgerCluster.
const (
	ConditionReady   = "Ready"   // as many shards serve as are wanted
	ConditionScaling = "Scaling" // shards or slots come or go
	ConditionBlocked = "Blocked" // nothing goes on until something outside changes; the message says what
)

// Member is one shard.
type Member struct {
	ID      string      `json:"id"`
	State   MemberState `json:"state"`
	Slots   int32       `json:"slots"`
	Sagas   int32       `json:"sagas"` // transfers between shards that have not ended, by its own database
	Message string      `json:"message,omitempty"`
}

// MemberState is how far a shard is.
type MemberState string

const (
	MemberCreating MemberState = "Creating" // its Postgres is not ready yet
	MemberJoining  MemberState = "Joining"  // it is ready, and not registered yet
	MemberActive   MemberState = "Active"
	MemberDraining MemberState = "Draining" // its slots move away
	MemberRetired  MemberState = "Retired"  // it has left; what ran it is being removed
	MemberForeign  MemberState = "Foreign"  // it is registered, and somebody else runs it
)
