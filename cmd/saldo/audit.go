package main

import (
	"context"
)

type auditCommand struct {
	target `embed:""`
}

func (c *auditCommand) Run(ctx context.Context, to streams) error { return nil }
