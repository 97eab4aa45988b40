"""What a run would cost, before it: rates of this machine, and the work of every stage."""
