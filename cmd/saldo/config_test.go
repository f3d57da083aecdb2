package main

import (
	"testing"

	"github.com/alecthomas/kong"

	"github.com/saldo-ledger/saldo/cmd/internal/configtest"
)

func TestConfigurationIsInTheHandbook(t *testing.T) {
	t.Parallel()
	configtest.Check(t, "saldo", new(commands), kong.Vars{"data": "/var/lib/saldo"})
}
