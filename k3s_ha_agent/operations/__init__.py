"""Operations: plans of steps, the engine that runs them, and the records that outlive it."""
