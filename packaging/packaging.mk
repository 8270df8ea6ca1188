# Packages of the agent. Results go to dist/ (or $(DIST)); the build trees lie outside the checkout.
# Both targets install what they need (apt-get as root or by sudo) and say so.
#   make deb                          k3s-ha-agent_VERSION_all.deb, with its source package
#   make rpm                          k3s-ha-agent-VERSION-1.noarch.rpm, with its source package
#   make rpm BUNDLE=1                 the same with the Python modules in it that a distribution may lack
#   ... PACKAGE_SUFFIX=~previous      another version of the same files, to test an upgrade
packaging_dir := $(dir $(lastword $(MAKEFILE_LIST)))

.PHONY: deb rpm packages

deb: ## the Debian package, into dist/
	@$(packaging_dir)prepare deb
	@$(packaging_dir)build-deb

rpm: ## the rpm package, into dist/
	@$(packaging_dir)prepare rpm
	@$(packaging_dir)build-rpm

packages: setup ## both packages: what is in them, lintian, rpmlint, installed, upgraded and removed in roots
	$(SUDO) $(PYTEST) tests/packaging $(ARGS)
