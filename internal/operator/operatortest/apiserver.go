package operatortest

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// APIServer starts a real API server that knows LedgerClusters, for the time of the test. crd is the file that says what
// they are. kubeconfig is a file that leads there. The test is skipped where there are no programs to be started.
func APIServer(t *testing.T, crd string) (config *rest.Config, kubeconfig string) {
	t.Helper()
	environment := &envtest.Environment{
		BinaryAssetsDirectory: programs(t), CRDDirectoryPaths: []string{crd}, ErrorIfCRDPathMissing: true,
	}
	config, err := environment.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := environment.Stop(); err != nil {
			t.Error(err)
		}
	})
	kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, environment.KubeConfig, 0o600); err != nil {
		t.Fatal(err)
	}
	return config, kubeconfig
}

// programs returns a folder with kube-apiserver and etcd.
func programs(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("needs an API server, which -short leaves out")
	}
	folders := []string{os.Getenv("SALDO_K8S_BIN"), os.Getenv("KUBEBUILDER_ASSETS")}
	if cache, err := os.UserCacheDir(); err == nil {
		built, _ := filepath.Glob(filepath.Join(cache, "saldo-k8s", "*", "bin")) // the pattern is well-formed
		folders = append(folders, built...)
	}
	for _, folder := range folders {
		_, err1 := os.Stat(filepath.Join(folder, "kube-apiserver"))
		_, err2 := os.Stat(filepath.Join(folder, "etcd"))
		if folder != "" && err1 == nil && err2 == nil {
			return folder
		}
	}
	t.Skip("needs kube-apiserver and etcd: scripts/k8s-build builds them, or name a folder in SALDO_K8S_BIN or KUBEBUILDER_ASSETS")
	return ""
}
