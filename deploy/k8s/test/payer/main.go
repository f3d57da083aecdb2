// Command payer is the load of the deep check on Kubernetes, and a part of its verdict. It pays at a constant rate through
// a cluster's routers while the check scales, kills and updates, repeats with the same id whatever was not answered with an
// outcome, and in the end asks for everything that it was told: each transfer again, and each balance.
//
// All its users have enough money and exist, so every transfer must come to COMPLETED, and what each user owns in the end
// is known exactly, whatever happened on the way. It refuses to be a benchmark: `saldo bench` is that.
//
//	POST /step    ends a step of the check, and answers in one line what it was like for those who pay
//	POST /finish  ends the load: what is under way is repeated until it is known, then all is checked
//
// It exits with 0 if nothing that it was told is wrong, and with 1 after saying what is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "payer: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var c config
	flags := flag.NewFlagSet("payer", flag.ContinueOnError)
	flags.StringVar(&c.url, "url", "http://127.0.0.1:8080", "of the routers")
	flags.StringVar(&c.name, "name", fmt.Sprintf("payer-%d", time.Now().Unix()), "in the ids of its users and transfers")
	flags.IntVar(&c.users, "users", 200, "who pay each other")
	flags.Float64Var(&c.rate, "rate", 40, "transfers in a second")
	flags.IntVar(&c.callers, "callers", 1024, "transfers under way, at most; what is due beyond that is counted, and not begun")
	flags.DurationVar(&c.patience, "patience", 2*time.Minute, "in which what is under way at the end has to become known")
	listen := flags.String("listen", ":9090", "address of /step and /finish")
	if err := flags.Parse(args); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	p := newPayer(c, slog.New(slog.NewTextHandler(os.Stdout, nil)))
	paying, finish := context.WithCancel(ctx)
	defer finish()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /step", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, p.endStep()) })
	mux.HandleFunc("POST /finish", func(w http.ResponseWriter, _ *http.Request) {
		finish()
		fmt.Fprintln(w, "finishing")
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	err = p.run(paying)
	if closeErr := server.Shutdown(context.WithoutCancel(ctx)); closeErr != nil {
		err = errors.Join(err, closeErr)
	}
	if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}
