package local

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
)

// Ports are kept over restarts, so they are chosen below the range from which
// the kernel takes ports for outgoing connections (32768 on Linux, 49152 on
// macOS): there, any client could sit on a port while its server restarts.
const (
	firstPort = 20000
	lastPort  = 29999
)

// freePort chooses a port that nobody listens on now. Nothing reserves it:
// whoever uses it must be ready to find it taken.
func freePort() (int, error) {
	for range 100 {
		if port := firstPort + rand.IntN(lastPort-firstPort+1); portFree(port) {
			return port, nil
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("choose a free port: %w", err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port, nil
}

func portFree(port int) bool {
	ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	ln.Close()
	return true
}

// readPorts reads what writePorts wrote; an absent or unreadable file is no
// ports, since ports are only a preference.
func readPorts(path string) []int {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var ports []int
	for _, field := range strings.Fields(string(b)) {
		port, err := strconv.Atoi(field)
		if err != nil || port < 1 || port > 65535 {
			return nil
		}
		ports = append(ports, port)
	}
	return ports
}

func writePorts(path string, ports ...int) error {
	fields := make([]string, len(ports))
	for i, port := range ports {
		fields[i] = strconv.Itoa(port)
	}
	if err := replaceFile(path, strings.Join(fields, " ")+"\n", 0o644); err != nil {
		return fmt.Errorf("keep the port: %w", err)
	}
	return nil
}

// replaceFile writes a whole file or leaves the old one.
func replaceFile(path, content string, mode os.FileMode) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	// The mode is set again because umask may have narrowed it: the server's
	// user must be able to read the configuration.
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, path)
}
