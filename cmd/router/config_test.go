package main

import (
	"testing"

	"github.com/saldo-ledger/saldo/cmd/internal/configtest"
)

func TestConfigurationIsInTheHandbook(t *testing.T) {
	t.Parallel()
	configtest.Check(t, "router", new(commands))
}
