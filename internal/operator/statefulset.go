package operator

import (
	"context"
	_ "embed"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/operator/v1alpha1"
)

const (
	database     = "saldo" // in each shard's Postgres
	postgresPort = 5432

	volumeData    = "data"
	volumeOwner   = "owner"
	volumeService = "service"
	volumeInit    = "init"

	pathOwner   = "/run/secrets/owner"
	pathService = "/run/secrets/service"

	scriptOwner    = "1-owner.sql"
	scriptServices = "2-services.sql"
)

// What makes the logins in a new database.
var (
	//go:embed sql/1-owner.sql
	ownerSQL string
	//go:embed sql/2-services.sql
	servicesSQL string
)

// statefulSets runs each shard's Postgres as a StatefulSet of one, on a volume that outlives it. Its objects have no owner
// reference: nothing that is deleted takes them along.
type statefulSets struct {
	client  client.Client
	cluster *v1alpha1.LedgerCluster
	logins  logins
}

func (s *statefulSets) host(id ledger.ShardID) string {
	name := objectName(s.cluster, id)
	return fmt.Sprintf("%s-0.%s.%s.svc", name, name, s.cluster.Namespace)
}

func (s *statefulSets) object(id ledger.ShardID) client.Object {
	return &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: s.cluster.Namespace, Name: objectName(s.cluster, id)}}
}

func (s *statefulSets) durable(running) string {
	return "a StatefulSet runs one server, so this one was made from a backup"
}

func (s *statefulSets) keepsRows(claims map[ledger.ShardID]bool, id ledger.ShardID) bool {
	return claims[id]
}

func (s *statefulSets) list(ctx context.Context) ([]running, error) {
	var sets appsv1.StatefulSetList
	err := s.client.List(ctx, &sets, client.InNamespace(s.cluster.Namespace), client.MatchingLabels{labelCluster: s.cluster.Name})
	if err != nil {
		return nil, fmt.Errorf("list StatefulSets: %w", err)
	}
	var all []running
	for i := range sets.Items {
		set := &sets.Items[i]
		id := ledger.ShardID(set.Labels[labelShard])
		if _, ok := ordinalOf(id); !ok || set.Name != objectName(s.cluster, id) {
			continue
		}
		hash, err := hashOf(s.template(id))
		if err != nil {
			return nil, err
		}
		retention := set.Spec.PersistentVolumeClaimRetentionPolicy
		all = append(all, running{
			id: id, object: set, deleting: set.DeletionTimestamp != nil, recreate: set.Annotations[annotationRecreate] != "",
			ready: set.Status.ObservedGeneration == set.Generation && set.Status.ReadyReplicas == 1 &&
				set.Status.CurrentRevision == set.Status.UpdateRevision,
			current: set.Annotations[annotationTemplate] == hash && (set.Spec.Replicas == nil || *set.Spec.Replicas == 1) &&
				(retention == nil || *retention == retain) && slices.Contains(set.Finalizers, finalizer),
		})
	}
	return all, nil
}

var retain = appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
	WhenDeleted: appsv1.RetainPersistentVolumeClaimRetentionPolicyType,
	WhenScaled:  appsv1.RetainPersistentVolumeClaimRetentionPolicyType,
}

func (s *statefulSets) make(ctx context.Context, id ledger.ShardID, uid string) error {
	name, labels := objectName(s.cluster, id), labelsOf(s.cluster, id)
	meta := metav1.ObjectMeta{Namespace: s.cluster.Namespace, Name: name, Labels: labels}
	if err := create(ctx, s.client, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.cluster.Namespace, Name: s.cluster.Name + "-shards", Labels: map[string]string{labelCluster: s.cluster.Name},
		},
		Data: map[string]string{scriptOwner: ownerSQL, scriptServices: servicesSQL},
	}); err != nil {
		return fmt.Errorf("create ConfigMap %s-shards: %w", s.cluster.Name, err)
	}
	if err := create(ctx, s.client, &corev1.Service{
		ObjectMeta: meta,
		Spec: corev1.ServiceSpec{
			ClusterIP: corev1.ClusterIPNone, Selector: selector(labels),
			// Its name stays while Postgres starts, so whoever asks is told that it does.
			PublishNotReadyAddresses: true,
			Ports:                    []corev1.ServicePort{{Name: "postgres", Port: postgresPort, TargetPort: intstr.FromString("postgres")}},
		},
	}); err != nil {
		return fmt.Errorf("create Service %s: %w", name, err)
	}
	template := s.template(id)
	hash, err := hashOf(template)
	if err != nil {
		return err
	}
	meta.Finalizers = []string{finalizer}
	meta.Annotations = map[string]string{annotationTemplate: hash, annotationRegistry: uid}
	storage := s.cluster.Spec.Postgres.Storage
	err = create(ctx, s.client, &appsv1.StatefulSet{
		ObjectMeta: meta,
		Spec: appsv1.StatefulSetSpec{
			Replicas: new(int32(1)), ServiceName: name, Selector: &metav1.LabelSelector{MatchLabels: selector(labels)},
			PersistentVolumeClaimRetentionPolicy: new(retain),
			Template:                             template,
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{
				ObjectMeta: metav1.ObjectMeta{Name: volumeData, Labels: labels, Annotations: map[string]string{annotationRegistry: uid}},
				Spec: corev1.PersistentVolumeClaimSpec{
					AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: storage.ClassName,
					Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: storage.Size}},
				},
			}},
		},
	})
	if err != nil {
		return fmt.Errorf("create StatefulSet %s: %w", name, err)
	}
	return nil
}

// selector is the labels that never change.
func selector(labels map[string]string) map[string]string {
	return map[string]string{labelCluster: labels[labelCluster], labelShard: labels[labelShard]}
}

func (s *statefulSets) update(ctx context.Context, r running) error {
	set := r.object.(*appsv1.StatefulSet)
	template := s.template(r.id)
	hash, err := hashOf(template)
	if err != nil {
		return err
	}
	err = change(ctx, s.client, set, func() {
		set.Spec.Template, set.Spec.Replicas, set.Spec.PersistentVolumeClaimRetentionPolicy = template, new(int32(1)), new(retain)
		if set.Annotations == nil {
			set.Annotations = make(map[string]string)
		}
		set.Annotations[annotationTemplate] = hash
		if set.DeletionTimestamp == nil && !slices.Contains(set.Finalizers, finalizer) {
			set.Finalizers = append(set.Finalizers, finalizer)
		}
	})
	if err != nil {
		return fmt.Errorf("update StatefulSet %s: %w", set.Name, err)
	}
	return nil
}

func (s *statefulSets) retire(ctx context.Context, r running) error {
	set := r.object.(*appsv1.StatefulSet)
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: set.Namespace, Name: set.Name}}
	if err := client.IgnoreNotFound(s.client.Delete(ctx, service)); err != nil {
		return fmt.Errorf("delete Service %s: %w", set.Name, err)
	}
	if set.DeletionTimestamp == nil {
		same := client.Preconditions{UID: &set.UID, ResourceVersion: &set.ResourceVersion}
		err := s.client.Delete(ctx, set, same, client.PropagationPolicy(metav1.DeletePropagationBackground))
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete StatefulSet %s: %w", set.Name, err)
		}
		return nil // the next look finds it as it is now
	}
	return s.release(ctx, r)
}

func (s *statefulSets) release(ctx context.Context, r running) error {
	if err := unfinalize(ctx, s.client, r.object); err != nil {
		return fmt.Errorf("take the finalizer off StatefulSet %s: %w", r.object.GetName(), err)
	}
	return nil
}

// template is the pod of a shard. It keeps to the restricted Pod Security Standard.
func (s *statefulSets) template(id ledger.ShardID) corev1.PodTemplateSpec {
	spec := s.cluster.Spec.Postgres
	user := int64(999) // in the official images
	if spec.UserID != nil {
		user = *spec.UserID
	}
	labels := labelsOf(s.cluster, id)
	mounts := []corev1.VolumeMount{
		{Name: volumeData, MountPath: "/var/lib/postgresql/data"},
		{Name: "run", MountPath: "/var/run/postgresql"},
		{Name: "tmp", MountPath: "/tmp"},
		{Name: "shared", MountPath: "/dev/shm"},
		{Name: volumeOwner, MountPath: pathOwner, ReadOnly: true},
		{Name: volumeInit, MountPath: "/docker-entrypoint-initdb.d", ReadOnly: true},
	}
	run := []corev1.KeyToPath{{Key: scriptOwner, Path: scriptOwner}}
	volumes := []corev1.Volume{
		{Name: "run", VolumeSource: corev1.VolumeSource{EmptyDir: new(corev1.EmptyDirVolumeSource)}},
		{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: new(corev1.EmptyDirVolumeSource)}},
		{Name: "shared", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{ // parallel queries need more than 64 MiB
			Medium: corev1.StorageMediumMemory, SizeLimit: new(resource.MustParse("256Mi")),
		}}},
		secretVolume(volumeOwner, s.logins.ownerSecret),
	}
	if s.logins.ownerIsAnother {
		run = append(run, corev1.KeyToPath{Key: scriptServices, Path: scriptServices})
		mounts = append(mounts, corev1.VolumeMount{Name: volumeService, MountPath: pathService, ReadOnly: true})
		volumes = append(volumes, secretVolume(volumeService, s.logins.secretName))
	}
	volumes = append(volumes, corev1.Volume{Name: volumeInit, VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: s.cluster.Name + "-shards"}, Items: run,
	}}})
	// No liveness probe: a Postgres that recovers must not be restarted for taking long, and one that dies ends its
	// container by itself.
	ready := corev1.ProbeHandler{Exec: &corev1.ExecAction{
		Command: []string{"pg_isready", "-q", "-h", "127.0.0.1", "-U", s.logins.user, "-d", database},
	}}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken:  new(false),
			EnableServiceLinks:            new(false),
			TerminationGracePeriodSeconds: new(int64(120)), // for the checkpoint of a stop
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: new(true), RunAsUser: new(user), RunAsGroup: new(user), FSGroup: new(user),
				FSGroupChangePolicy: new(corev1.FSGroupChangeOnRootMismatch),
				SeccompProfile:      &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Affinity: &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{
					Weight: 100, PodAffinityTerm: corev1.PodAffinityTerm{
						TopologyKey:   corev1.LabelHostname,
						LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{labelCluster: s.cluster.Name}},
					},
				}},
			}},
			Containers: []corev1.Container{{
				Name: "postgres", Image: spec.Image, ImagePullPolicy: corev1.PullIfNotPresent, Args: arguments(spec.Parameters),
				Ports: []corev1.ContainerPort{{Name: "postgres", ContainerPort: postgresPort}},
				Env: []corev1.EnvVar{
					{Name: "PGDATA", Value: "/var/lib/postgresql/data/pgdata"},
					{Name: "POSTGRES_DB", Value: database},
					{Name: "POSTGRES_PASSWORD_FILE", Value: pathOwner + "/password"},
					{Name: "POSTGRES_INITDB_ARGS", Value: "--data-checksums --encoding=UTF8 --locale=C.UTF-8"},
				},
				Resources:      spec.Resources,
				StartupProbe:   &corev1.Probe{ProbeHandler: ready, PeriodSeconds: 2, TimeoutSeconds: 3, FailureThreshold: 1800}, // an hour of recovery
				ReadinessProbe: &corev1.Probe{ProbeHandler: ready, PeriodSeconds: 5, TimeoutSeconds: 3},
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
					Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
				VolumeMounts: mounts,
			}},
			Volumes: volumes,
		},
	}
}

func secretVolume(name, secret string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
		SecretName: secret, DefaultMode: new(int32(0o440)),
		Items: []corev1.KeyToPath{{Key: corev1.BasicAuthUsernameKey, Path: "username"}, {Key: corev1.BasicAuthPasswordKey, Path: "password"}},
	}}}
}

// arguments are those of the postgres program, sorted so that the same settings are the same template.
func arguments(parameters map[string]string) []string {
	args := []string{"postgres"}
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		args = append(args, "-c", name+"="+parameters[name])
	}
	return args
}
