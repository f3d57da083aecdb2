package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/google/uuid"
)

// Version is set by the linker.
var Version = "dev"

// Main is the main of every program: it runs until run returns or a signal asks to stop, and exits. A second signal ends
// the process at once.
func Main(run func(ctx context.Context, args []string, stdout, stderr io.Writer) error) {
	uuid.EnableRandPool() // an id is made for many a request; none is a secret
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop()
	}()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	var code ExitCode
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(int(code))
	default:
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(2)
	}
}

// ExitCode is an error that has said all there is to say; the process exits with it.
type ExitCode int

func (c ExitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// Parse reads args and the environment into flags. It answers --help and --version with ExitCode(0).
func Parse(flags any, name, about string, args []string, stdout, stderr io.Writer, options ...kong.Option) (*kong.Context, error) {
	exit := -1
	parser, err := kong.New(flags, append([]kong.Option{
		kong.Name(name), kong.Description(about), kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exit = code }), kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Vars{"version": Version},
	}, options...)...)
	if err != nil {
		return nil, err
	}
	parsed, err := parser.Parse(args)
	switch {
	case exit >= 0:
		return nil, ExitCode(exit)
	case err != nil:
		return nil, fmt.Errorf("%w (see %s --help)", err, name)
	}
	return parsed, nil
}

// Run parses args and the environment into a program's commands, and runs the one that was said: its Run may take the context
// and standard output.
func Run(ctx context.Context, commands any, name, about string, args []string, stdout, stderr io.Writer) error {
	parsed, err := Parse(commands, name, about, args, stdout, stderr)
	if err != nil {
		return err
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	parsed.BindTo(stdout, (*io.Writer)(nil))
	return parsed.Run()
}
