// Package compose_test reads docker-compose.yml as a person would who looks for what must not be. That it works is proven
// with a real engine, by `make compose.test`.
package compose_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

type service struct {
	Image       string
	Restart     string
	ReadOnly    bool     `json:"read_only"`
	CapDrop     []string `json:"cap_drop"`
	CapAdd      []string `json:"cap_add"`
	SecurityOpt []string `json:"security_opt"`
	Privileged  bool
	Networks    []string
	Ports       []string
	Secrets     []string
	Healthcheck any
	Logging     struct{ Options map[string]string }
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile("../../" + file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func services(t *testing.T) map[string]service {
	t.Helper()
	var project struct{ Services map[string]service }
	if err := yaml.Unmarshal([]byte(read(t, "docker-compose.yml")), &project); err != nil {
		t.Fatal(err)
	}
	if len(project.Services) < 10 {
		t.Fatalf("docker-compose.yml has %d services", len(project.Services))
	}
	return project.Services
}

func TestEveryServiceIsConfined(t *testing.T) {
	t.Parallel()
	ours := regexp.MustCompile(`^saldo(-router|-coordinator)?:\$\{SALDO_TAG:-dev\}$`)
	pinned := regexp.MustCompile(`:v?\d+\.\d+(\.\d+)?\}?$`)
	for name, s := range services(t) {
		switch {
		case !s.ReadOnly || s.Privileged || len(s.CapAdd) > 0 || !slices.Equal(s.CapDrop, []string{"ALL"}) ||
			!slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}):
			t.Errorf("%s may do more than it must: %+v", name, s)
		case s.Logging.Options["max-size"] == "":
			t.Errorf("the logs of %s have no limit", name)
		case !ours.MatchString(s.Image) && !pinned.MatchString(s.Image):
			t.Errorf("%s: the image %s is of no certain version", name, s.Image)
		case !ours.MatchString(s.Image) && s.Healthcheck == nil && name != "jaeger": // whose image has no program to ask with
			t.Errorf("nobody knows whether %s is healthy", name)
		}
		for _, port := range s.Ports {
			if !strings.HasPrefix(port, "127.0.0.1:") {
				t.Errorf("%s: port %s is published to the world", name, port)
			}
		}
		stateful := slices.Contains([]string{"etcd", "s1", "s2", "s3"}, name)
		if stateful && !slices.Equal(s.Networks, []string{"inside"}) {
			t.Errorf("%s is on the networks %v", name, s.Networks)
		}
		oneShot := strings.HasPrefix(name, "register-") || name == "saldo"
		if want := map[bool]string{true: "no", false: "unless-stopped"}[oneShot]; s.Restart != want {
			t.Errorf("%s is restarted %q, not %q", name, s.Restart, want)
		}
	}
}

// Who serves clients cannot become the owner of their history.
func TestServicesDoNotHoldTheOwnersPassword(t *testing.T) {
	t.Parallel()
	all := services(t)
	for _, name := range []string{"router-1", "router-2", "coordinator-1", "coordinator-2", "prometheus", "grafana", "jaeger"} {
		s, ok := all[name]
		if !ok {
			t.Errorf("there is no %s in %v", name, slices.Sorted(maps.Keys(all)))
		}
		if slices.Contains(s.Secrets, "owner_password") || slices.Contains(s.Secrets, "postgres_password") {
			t.Errorf("%s holds %v", name, s.Secrets)
		}
	}
}

// What the tests run on is what is deployed.
func TestVersionsAreThoseOfTheModule(t *testing.T) {
	t.Parallel()
	module := read(t, "go.mod")
	for file, words := range map[string][2]string{
		"docker-compose.yml": {`go\.etcd\.io/etcd/server/v3 (v[\d.]+)`, "coreos/etcd:"},
		"Dockerfile":         {`(?m)^go ([\d.]+)`, "golang:"},
	} {
		version := regexp.MustCompile(words[0]).FindStringSubmatch(module)
		if version == nil {
			t.Fatalf("go.mod does not say %s", words[0])
		}
		if want := words[1] + version[1]; !regexp.MustCompile(regexp.QuoteMeta(want) + `\D`).MatchString(read(t, file)) {
			t.Errorf("%s does not say %s", file, want)
		}
	}
}
