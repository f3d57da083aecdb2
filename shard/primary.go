package shard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Primary is the one server of a shard's address that counts.
type Primary struct {
	*Standing
	DSN    string   // of this server alone
	Silent []string // other hosts of the address, and why they could not be looked at: one of them may be the primary
}

// FindPrimary looks at every host of dsn, at each address of a name, and not only at the first one that answers: an old
// primary that comes back takes itself for the shard's, and a standby comes first where the address says so. Of several
// primaries it returns the one that was adopted last. known is the timeline below which a server is an old primary, 0 if that
// is not known. The error is ErrUnfit if no host is a primary, or only old ones are, or it cannot be told which one is meant.
func FindPrimary(ctx context.Context, dsn, password string, known int) (*Primary, error) {
	return findPrimary(ctx, dsn, password, known, net.DefaultResolver.LookupHost)
}

func findPrimary(ctx context.Context, dsn, password string, known int, lookUp pgconn.LookupFunc) (*Primary, error) {
	hosts, err := hostsOf(ctx, dsn, lookUp)
	if err != nil {
		return nil, fmt.Errorf("find the primary: %w", err)
	}
	var (
		best   *Primary
		twin   string // a host that is as good as best, and another server
		unfit  error
		silent []string
		errs   []error
	)
	at := make(map[*Primary]string)
	for _, host := range hosts {
		s, err := Look(ctx, host.dsn, password)
		switch {
		case err != nil:
			silent, errs = append(silent, fmt.Sprintf("%s (%v)", host.name, err)), append(errs, err)
			continue
		case s.Standby:
			unfit = fmt.Errorf("%w: %s is a standby: name its primary", ErrUnfit, host.name)
			continue
		case s.Cluster != "" && s.Timeline < known:
			unfit = fmt.Errorf("%w: %s is on timeline %d, and the shard is on %d: it is an old primary, to be rewound or made anew",
				ErrUnfit, host.name, s.Timeline, known)
			continue
		}
		found := &Primary{Standing: s, DSN: host.dsn}
		at[found] = host.name
		switch {
		case best == nil || s.later(best.Standing) > 0:
			best, twin = found, ""
		case s.later(best.Standing) == 0 && !s.Started.Equal(best.Started):
			twin = host.name
		}
	}
	switch {
	case twin != "":
		return nil, fmt.Errorf("%w: %s and %s are both primaries, on timeline %d: stop the one that is not the shard's",
			ErrUnfit, at[best], twin, best.Timeline)
	case best == nil:
		return nil, errors.Join(append(errs, unfit)...)
	}
	best.Silent = silent
	return best, nil
}

// later compares two primaries of a shard by which one was adopted last. One that was promoted and not adopted has taken no
// writes since.
func (s *Standing) later(than *Standing) int {
	adopted := func(s *Standing) int {
		if s.Adopted == s.Timeline {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(s.Adopted, than.Adopted),
		cmp.Compare(adopted(s), adopted(than)),
		cmp.Compare(s.Timeline, than.Timeline),
	)
}

// host is one of a connection string.
type host struct {
	name string
	dsn  string // leads there and nowhere else, to a standby as well
}

// hostAddress is where to connect to instead of looking a host up, as for libpq; its name is still what a certificate is
// checked against.
const hostAddress = "hostaddr"

// hostsOf takes a connection string apart, in either of its forms, and a name that leads to several servers too. What is said
// last in it counts.
func hostsOf(ctx context.Context, dsn string, lookUp pgconn.LookupFunc) ([]host, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("parse dsn: %w", err)
	}
	var hosts []host
	add := func(name string, port uint16, address string) {
		number := strconv.Itoa(int(port))
		h := host{name: net.JoinHostPort(name, number)}
		if address != "" {
			h.name += " at " + address
		}
		if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
			quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(name)
			h.dsn = fmt.Sprintf("%s host='%s' port=%s target_session_attrs=any", dsn, quoted, number)
			if address != "" {
				h.dsn += fmt.Sprintf(" %s='%s'", hostAddress, address)
			}
		} else {
			with := "?"
			if strings.Contains(dsn, "?") {
				with = "&"
			}
			h.dsn = dsn + with + "host=" + url.QueryEscape(name) + "&port=" + number + "&target_session_attrs=any"
			if address != "" {
				h.dsn += "&" + hostAddress + "=" + url.QueryEscape(address)
			}
		}
		if !slices.Contains(hosts, h) { // a host is there once with TLS and once without
			hosts = append(hosts, h)
		}
	}
	addAll := func(name string, port uint16) {
		var addresses []string
		// This machine's own name may have two addresses of one server; and whoever says an address means that.
		if name != "localhost" && !filepath.IsAbs(name) && config.RuntimeParams[hostAddress] == "" {
			addresses, _ = lookUp(ctx, name) // whoever looks at the host is told why it cannot be found
		}
		if len(addresses) < 2 {
			addresses = []string{""}
		}
		for _, address := range addresses {
			add(name, port, address)
		}
	}
	addAll(config.Host, config.Port)
	for _, fallback := range config.Fallbacks {
		addAll(fallback.Host, fallback.Port)
	}
	return hosts, nil
}
