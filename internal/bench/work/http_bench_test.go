package work_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/saldo-ledger/saldo/internal/bench/work"
)

// BenchmarkHTTP is what a call costs the generator, in processor time of this process: a router in another one answers at
// once, always the same.
func BenchmarkHTTP(b *testing.B) {
	url := anotherProcess(b)
	for _, name := range []string{"same", "balance"} {
		for _, callers := range []int{1, 64, 256} {
			b.Run(fmt.Sprintf("%s-%d", name, callers), func(b *testing.B) {
				kind, err := work.HTTPWorkNamed(name)
				if err != nil {
					b.Fatal(err)
				}
				h, err := work.NewHTTP(kind, work.HTTPOptions{URLs: []string{url}, Callers: callers, Users: people(2, 5000)})
				if err != nil {
					b.Fatal(err)
				}
				defer h.Close()
				b.ReportAllocs()
				var next atomic.Int64
				var group sync.WaitGroup
				before := processorTime(b)
				for caller := range callers {
					group.Go(func() {
						for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
							if _, err := h.Call(b.Context(), caller, n); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				group.Wait()
				b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/call")
			})
		}
	}
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

const beRouter = "SALDO_TEST_BE_ROUTER"

// anotherProcess starts this program again as TestBeRouter, and returns its URL.
func anotherProcess(b *testing.B) string {
	b.Helper()
	program := exec.Command(os.Args[0], "-test.run=^TestBeRouter$")
	program.Env = append(os.Environ(), beRouter+"=1")
	said, err := program.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := program.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = program.Process.Kill()
		_ = program.Wait()
	})
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// TestBeRouter is no test but that other process, until it is killed.
func TestBeRouter(t *testing.T) {
	if os.Getenv(beRouter) == "" {
		t.Skip("only for BenchmarkHTTP")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("http://%s\n", listener.Addr())
	transfer := []byte(`{"success":true,"message":"transaction successful!","status_code":201,"data":{"transaction_id":"k3j9x0aq-1f-9z",` +
		`"status":"COMPLETED","current_balance":1099511627775,"currency":"USD","version":2}}`)
	balance := []byte(`{"success":true,"message":"request successful!","status_code":200,"data":{"balance":1099511627775,"currency":"USD","version":2}}`)
	err = (&fasthttp.Server{Handler: func(r *fasthttp.RequestCtx) {
		r.SetContentType("application/json")
		r.Response.Header.Set("Cache-Control", "no-store")
		r.Response.Header.Set("X-Content-Type-Options", "nosniff")
		if r.IsPost() {
			r.SetStatusCode(fasthttp.StatusCreated)
			r.SetBody(transfer)
		} else {
			r.SetBody(balance)
		}
	}}).Serve(listener)
	t.Fatal(err)
}
