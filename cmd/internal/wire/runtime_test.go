package wire

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"
)

func TestTuneMemory(t *testing.T) { // not parallel: it is about the whole process
	percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(1<<40)
	defer func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	}()
	t.Setenv("GOGC", "100")
	t.Setenv("GOMEMLIMIT", "1TiB")
	TuneMemory()
	if percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(-1); percent != 100 || limit != 1<<40 {
		t.Errorf("against the environment the heap grows by %d %% up to %d bytes", percent, limit)
	}
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	TuneMemory()
	if percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(-1); percent != heapGrowth || limit != memoryLimit {
		t.Errorf("the heap grows by %d %% up to %d bytes", percent, limit)
	}
}

func TestServeDebug(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	stop, err := serveDebug("127.0.0.1:0", slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	address := regexp.MustCompile(`http=(\S+)`).FindStringSubmatch(log.String())[1]
	for path, want := range map[string]string{"/debug/pprof/": "goroutine", "/debug/pprof/heap?debug=1": "heap profile", "/debug/pprof/symbol": "num_symbols"} {
		response, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != 200 || !strings.Contains(string(body), want) {
			t.Errorf("%s is answered %s %.100q, %v", path, response.Status, body, err)
		}
	}
	stop()
	if _, err := http.Get("http://" + address + "/debug/pprof/"); err == nil {
		t.Error("it serves after it was stopped")
	}

	if stop, err := serveDebug("", slog.Default()); err != nil {
		t.Errorf("without an address: %v", err)
	} else {
		stop()
	}
	for address, want := range map[string]string{
		"0.0.0.0:0": "only a loopback address", ":0": "only a loopback address", "nonsense": "choose another address",
	} {
		if _, err := serveDebug(address, slog.Default()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("on %s: %v", address, err)
		}
	}
}
