package shard

import (
	"context"
	"errors"
	"fmt"

	"github.com/saldo-ledger/saldo/internal/placement"
)

// Check returns nil if the shard would act for the holds now, or else the *placement.OwnershipError or
// *placement.StrangerError that it would answer. It locks nothing, so that is a hint: an act is checked in its own
// transaction. Other errors: CodeUnavailable.
func (s *Shard) Check(ctx context.Context, holds []placement.Hold) error {
	slots, epochs := make([]int16, len(holds)), make([]int64, len(holds))
	for i, hold := range holds {
		slots[i], epochs[i] = int16(hold.Slot), int64(hold.Epoch)
	}
	_, err := s.pool.Exec(ctx, guardStatement, s.config.Cluster, string(s.config.ID), slots, epochs)
	var refused *placement.OwnershipError
	if told := ownership(err); errors.As(told, &refused) {
		return refused
	}
	if err != nil {
		return s.readError(fmt.Errorf("check slots: %w", err))
	}
	return nil
}
