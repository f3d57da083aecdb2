package wire

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/saldo-ledger/saldo/internal/cluster"
)

// processName names this process among those of its kind.
func processName() (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("name the process: %w", err)
	}
	return fmt.Sprintf("%s-%d", host, os.Getpid()), nil
}

// announcing returns what tells others of this process for as long as its context lives, beside its cluster.
func announcing(kind string, p cluster.Process) func(context.Context, *cluster.Cluster) {
	p.Version, p.StartedAt = Version, time.Now().UTC().Truncate(time.Millisecond)
	return func(ctx context.Context, c *cluster.Cluster) {
		_ = c.AnnounceProcess(ctx, kind, p) // it ends with ctx
	}
}

// advertised is the address at which others reach a listener: what was said, else the listener's own. One that listens on
// every address is reached at this machine's first one that is not loopback, or else by the machine's name.
func advertised(said string, listener net.Addr) string {
	tcp, ok := listener.(*net.TCPAddr)
	if said != "" || !ok || !tcp.IP.IsUnspecified() {
		if said == "" {
			said = listener.String()
		}
		return said
	}
	host, _ := os.Hostname()
	addresses, _ := net.InterfaceAddrs() // none: then the name
	for _, address := range addresses {
		if ip, ok := address.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() && ip.IP.To4() != nil {
			host = ip.IP.String()
			break
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(tcp.Port))
}
