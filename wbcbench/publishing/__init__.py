"""What leaves a store: submissions and their verification, merged stores, published boards."""
