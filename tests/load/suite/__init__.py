"""What `bench` is made of: seeded weights, servers, scenarios, plots."""
